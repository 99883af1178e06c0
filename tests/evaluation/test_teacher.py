r"""Answers as a careful teacher marks them: right ones in any spelling, wrong ones that look right.

Each line was judged by hand; about half are wrong, so that forgiving everything does not pass.
"""

# ruff: noqa: RUF001

import pytest

from colm.evaluation.judging.equivalence import FormulaComparison
from colm.evaluation.judging.judgement import judge

PICK = "Which? (A) 1 (B) 2 (C) 3 (D) 4"
LINES = "How many are there?\nA. 12\nB. 13\nC. 14 apples"
BRACKETS = "Who wrote it? A) Lincoln B) J. R. R. Tolkien C) both of them"
ROPE = "A rope of 3 m is tied to one of 2 m. How long are both?"
SOLVE = "Solve k = 2m for k, with m as it is."

FACTORIALS = [
    (r"\boxed{5!}", "120", True),
    (r"\boxed{5!}", "5", False),
    (r"\boxed{4!}", "5!", False),
    ("The answer is $6!$.", "720", True),
    ("The answer is $6!$.", "6", False),
    ("The answer is 5! = 120.", "120", True),
    ("The answer is 5! = 120.", "5", False),
    ("The answer is 42!", "42", True),
    ("I found it! The answer is 42! Great.", "42", True),
    (r"\boxed{\frac{7!}{3!}}", "840", True),
    (r"\boxed{\frac{7!}{3!}}", "7/3", False),
    (r"\boxed{n!}", "n", False),
    (r"\boxed{(n-1)! \cdot n}", "n!", True),
    (r"\boxed{3!+1}", "7", True),
    ("factorial(5)", "120", True),
    ("There are 5! ways.", "5", False),
    ("The answer is n!/(n-k)!.", r"\frac{n!}{(n-k)!}", True),
    ("The answer is n!/(n-k)!.", r"\frac{n!}{k!}", False),
]
UNICODE = [
    ("The answer is 2⁵.", "32", True),
    ("The answer is 2⁵.", "25", False),
    ("The answer is 2⁵.", "2", False),
    ("The answer is 10⁻³.", "0.001", True),
    ("The answer is 10⁻³.", "1000", False),
    ("The answer is ¾.", "0.75", True),
    ("The answer is 1¾.", "7/4", True),
    ("The answer is 1¾.", "13/4", False),
    ("The answer is −5.", "-5", True),
    ("The answer is −5.", "5", False),
    ("The answer is 6 ÷ 4.", "1.5", True),
    ("The answer is 3·10².", "300", True),
    ("The answer is 2π.", r"2\pi", True),
    ("The answer is 2π.", "2", False),
    ("The answer is π/4.", r"\frac{\pi}{4}", True),
    ("The answer is √(a² + b²).", r"\sqrt{a^2+b^2}", True),
    ("The answer is √2/2.", r"\frac{\sqrt{2}}{2}", True),
    ("The answer is √12.", r"2\sqrt{3}", True),
    ("The answer is 2√3.", r"\sqrt{6}", False),
    ("The answer is ∛27.", "3", True),
    ("The answer is x₁.", "x_1", True),
    ("The answer is x₁.", "x_2", False),
    ("The answer is H₂O.", "H2O", True),
    ("The answer is CO₂.", "CO", False),
    ("The answer is x ≥ 3.", r"[3, \infty)", True),
    ("The answer is x > 3.", r"[3, \infty)", False),
    ("The answer is (−∞, 5].", r"(-\infty, 5]", True),
    ("The answer is ½x.", r"\frac{x}{2}", True),
    ("The answer is ±2.", r"\pm 2", True),
    ("The answer is ５０.", "50", True),
    ("The answer is 25 °C.", "25", True),
    ("The answer is 30º.", r"30^\circ", True),
    ("The area is 10 cm².", r"10 \text{ cm}^2", True),
    ("The area is 10 cm.", r"10 \text{ cm}^2", False),
    ("The answer is 5 × 10³ m.", "5 km", True),
    ("The answer is 6.02 × 10²².", r"6.02 \times 10^{23}", False),
]
UNITS = [
    ("The answer is 20 N.", "20", True),
    (r"\boxed{20\,\text{N}}", "20", True),
    ("The answer is 20.", "20 N", True),
    ("The answer is 20 newtons.", "20 N", True),
    ("The answer is 20 J.", "20 N", False),
    ("The answer is 20 V.", "20 A", False),
    ("20 W", "20 kW", False),
    ("The answer is 5 m.", "5 km", False),
    ("The answer is 5m.", "5 km", False),
    ("The answer is 5000 m.", "5 km", True),
    ("The answer is 5 kg.", "5 g", False),
    ("5g", "5 kg", False),
    ("The answer is 0.5 L.", "500 mL", True),
    ("The answer is 90 minutes.", "1.5 hours", True),
    ("The answer is 1 hour 30 minutes.", "90 minutes", True),
    ("The answer is 1 hour 30 minutes.", "130 minutes", False),
    ("The answer is 90 seconds.", "90 minutes", False),
    ("The answer is 5 s.", "5 h", False),
    ("The answer is 60 km/h.", "60 kilometers per hour", True),
    ("The answer is 60 km/h.", "60 m/s", False),
    ("The answer is 60 mph.", "60 km/h", False),
    ("The answer is 5 ft 6 in.", "5.5 feet", True),
    ("The answer is 12 apples.", "12", True),
    ("The answer is 12 square units.", "12", True),
    ("The answer is 20 °C.", "20 °F", False),
    ("2x", "2", False),
    ("2m", "2", False),
    ("It is 5 m long.", "5 km", False),
]
GROUPED = [
    ("The answer is 1 000 000.", "1000000", True),
    ("The answer is 1 000 000.", "1", False),
    ("The answer is 12 345.", "12345", True),
    ("The answer is 12 345.", "345", False),
    (r"The answer is 12\,345.", "12345", True),
    ("The answer is 12\u202f345.", "12345", True),
    ("The answer is 1'250.", "1250", True),
    ("The answer is 1,00,000.", "100000", True),
    ("The answer is 12,34,567.", "1234567", True),
    ("The answer is 1,00,000.", "1000000", False),
    ("The answer is 1,00,000.", "1", False),
    ("The answer is 5 lakh.", "5,00,000", True),
    ("The answer is 1,000,000.", "100000", False),
    ("15 900", "15", True),  # as a program prints two values
    ("100, 200, 300", "100 200 300", True),
    ("There were 2 500 people.", "500", False),
]
SMALL = [
    ("1e-10", "0", False),
    ("0", "10^{-10}", False),
    ("1e-10", "10^{-10}", True),
    ("0.0000000001", "10^{-10}", True),
    ("0.0000000002", "10^{-10}", False),
    ("0.00000005", r"\frac{\pi}{10^{8}}", False),
    ("3.141592653589793e-08", r"\frac{\pi}{10^{8}}", True),
    (r"\frac{1}{10^{12}}", "0.0", False),
    ("The answer is e^{-20}.", "0.0", False),
    (r"\sqrt{10^{20}+1}", "10^{10}", False),
    ("1.0000001", "1", True),
    ("0.000123", "0.000124", False),
]
FUNCTIONS = [
    ("The answer is log(2).", r"\ln 2", True),
    ("The answer is log(3).", r"\ln 2", False),
    ("The answer is ln(8)/3.", r"\ln 2", True),
    ("math.log(2)", r"\ln(2)", True),
    ("The answer is sin(x).", r"\sin x", True),
    ("The answer is sin(x).", r"\cos x", False),
    ("The answer is exp(-x).", "e^{-x}", True),
    ("The answer is exp(x).", "e^{-x}", False),
    ("The answer is e^-x.", "e^{-x}", True),
    ("The answer is 2^-3.", "1/8", True),
    ("The answer is 2^-3.", "8", False),
    ("The answer is 2^-3.", "2", False),
    ("The answer is x^12.", "x^{12}", True),
    ("The answer is log_2(8).", "3", True),
    ("The answer is log10(1000).", "3", True),
    ("atan(1)", r"\frac{\pi}{4}", True),
    ("sqrt(3**2 + (4 - 1)**2)", r"3\sqrt{2}", True),
    ("abs(x - 1)", "|x-1|", True),
    ("oo", r"\infty", True),
    ("-oo", r"\infty", False),
]
ABBREVIATIONS = [
    ("The answer is approx. 12.5.", "12.5", True),
    ("The answer is approx. 12.5.", "12", False),
    ("The answer is Dr. Watson.", "Dr. Watson", True),
    ("The answer is Dr. Watson. He lived in London.", "Dr. Watson", True),
    ("The answer is Mt. Everest.", "Mt. Everest", True),
    ("The answer is St. Louis.", "St. Paul", False),
    ("The answer is George W. Bush.", "George W. Bush", True),
    ("The answer is George W. Bush.", "George Washington", False),
    ("The answer is J.R.R. Tolkien.", "J. R. R. Tolkien", True),
    ("The answer is the U.S.", "US", True),
    ("The answer is vitamin C. It is in lemons.", "vitamin C", True),
    ("The answer is Rs. 1,500.", "1500", True),
    ("The answer is Rs. 1,500.", "1", False),
    ("The answer is 5 ft. 3 in.", "63 inches", True),
    ("The answer is 5. There were 7 before.", "7", False),
    ("The answer is 3 a.m.", "3 pm", False),
    ("The answer is 3 p.m.", "3 pm", True),
    ("The answer is Paris. It is large.", "Paris", True),
]
CHOICES = [
    ("The answer is B, not C.", "B", True),
    ("The answer is B, not C.", "C", False),
    ("The answer is not B but C.", "C", True),
    ("The answer is not B but C.", "B", False),
    ("The answer is not B.", "B", False),
    ("I choose D over A.", "D", True),
    ("I choose D over A.", "A", False),
    ("A is wrong and C is wrong. B is correct.", "B", True),
    ("B is correct. A is wrong and C is wrong.", "B", True),
    ("B is correct. A is wrong and C is wrong.", "C", False),
    ("Option C is the best answer because A is too small.", "C", True),
    ("Unlike A, D fits.", "D", True),
    ("The answer is (C), which is 3.", "C", True),
    ("The answer is A or B.", "A", False),
    ("The answer is both A and B.", "B", False),
    ("Both A and B.", "A", False),
    (r"The answer is $\boxed{B}$.", "B", True),
    (r"\boxed{\text{B) 2}}", "B", True),
    ("**B**", "B", True),
    ("Answer: (b)", "B", True),
    ("The answer is 2.", "B", True),
    ("The answer is 2.", "A", False),
    ("The answer is B", "A", False),
    ("The answer is C. No wait, D.", "D", True),
    ("The answer is C. No wait, D.", "C", False),
    ("Let A be the set of all. The answer is D.", "A", False),
    ("Neither B nor C.", "C", False),
    ("(A) is false, (B) is true.", "B", True),
    ("(A) is false, (B) is true.", "A", False),
    ("I'd say C, though A is close.", "C", True),
    ("I'd say C, though A is close.", "A", False),
    ("A and B are wrong so it must be C.", "C", True),
    ("Choice B is incorrect.", "B", False),
]
WRITTEN_CHOICES = [
    ("The answer is 13.", "B", LINES, True),
    ("13", "B", LINES, True),
    ("The answer is 14 apples.", "C", LINES, True),
    ("The answer is 14.", "C", LINES, True),
    ("The answer is 12.", "B", LINES, False),
    ("B. 13", "B", LINES, True),
    ("The answer is A. 12", "B", LINES, False),
    ("The answer is B.", "13", LINES, True),
    ("The answer is A.", "13", LINES, False),
    ("The answer is B.", "B. 13", LINES, True),
    ("The answer is 13.", "B. 13", LINES, True),
    ("The answer is 12.", "B. 13", LINES, False),
    ("A) 12", "A) 12", "", True),
    ("The answer is 12.", "A) 12", "", True),
    ("The answer is B) 12.", "A) 12", "", False),
    ("A) 12", "12", "", True),
    ("A. 12", "13", "", False),
    ("J. R. R. Tolkien", "B", BRACKETS, True),
    ("Lincoln", "B", BRACKETS, False),
    ("The answer is b) J. R. R. Tolkien.", "B", BRACKETS, True),
    ("5m", "5", ROPE, True),
    ("4m", "5", ROPE, False),
    ("2m", "2", SOLVE, False),
]
PERCENT_AND_MONEY = [
    ("The answer is 25 percent.", "25%", True),
    ("The answer is 25 per cent.", "0.25", True),
    ("The answer is 2.5%.", "25%", False),
    ("The answer is 0.25%.", "25%", False),
    ("The answer is 25.", "25%", True),
    ("The answer is $0.50.", "50 cents", True),
    ("The answer is $50.", "50 cents", False),
    ("The answer is 50 cents.", "$50", False),
    ("The answer is 50 cents.", "$0.50", True),
    (r"The answer is \$1,250.00.", "1250", True),
    ("The answer is $1,250.50.", "1250", False),
    ("The answer is 5 euros.", "5 dollars", False),
    ("The answer is €5.", "5", True),
    ("The answer is 5 USD.", "$5", True),
    ("The answer is 500 rupees.", "Rs. 500", True),
    ("The answer is Rs. 50.", "Rs. 500", False),
    ("The answer is ₹500.", "$500", False),
    ("The answer is $2.5 million.", "2500000", True),
    ("The answer is $2.5 billion.", "2500000", False),
]
DATES_AND_TIMES = [
    ("The answer is July 4, 1776.", "4 July 1776", True),
    ("The answer is July 4th, 1776.", "July 4, 1776", True),
    ("The answer is 1776-07-04.", "July 4, 1776", True),
    ("The answer is July 5, 1776.", "July 4, 1776", False),
    ("The answer is June 4, 1776.", "July 4, 1776", False),
    ("The answer is July 4, 1777.", "July 4, 1776", False),
    ("The answer is March 5.", "5 March", True),
    ("The answer is March 15.", "5 March", False),
    ("The answer is 3:30 p.m.", "3:30 PM", True),
    ("The answer is 15:30.", "3:30 PM", True),
    ("The answer is 3:30 a.m.", "3:30 PM", False),
    ("The answer is 2:40.", "1:20", False),
    ("The answer is 3:30.", "3:35", False),
    ("The answer is 1969.", "1969", True),
    ("The answer is 1968.", "1969", False),
]
FRACTIONS = [
    ("The answer is 3/4.", "0.75", True),
    ("The answer is 4/3.", "0.75", False),
    ("The answer is 6/8.", "3/4", True),
    ("The answer is 1 3/4.", "7/4", True),
    ("The answer is 1 3/4.", "13/4", False),
    ("The answer is 1 and 3/4.", "1.75", True),
    ("The answer is 3/4 of the cake.", "3/4", True),
    (r"\boxed{0.\overline{3}}", r"\frac{1}{3}", True),
    ("0.333...", "1/3", True),
    ("0.1666...", "1/6", True),
    ("0.1666...", "1/3", False),
    (r"\boxed{0.1\overline{6}}", "1/6", True),
    (r"\boxed{\frac{22}{7}}", r"\pi", False),
    ("The answer is three quarters.", "0.75", True),
    ("The answer is two and a half.", "2.5", True),
    ("The answer is two and a half.", "2", False),
    ("The answer is one third.", "1/3", True),
    ("The answer is one third.", "3", False),
    ("The answer is 10 - 3.", "10", False),
    ("The answer is 10 - 3.", "7", True),
]
WORDS_FOR_NUMBERS = [
    ("The answer is twenty-one.", "21", True),
    ("The answer is twenty one apples.", "21", True),
    ("The answer is twenty.", "21", False),
    ("The answer is one hundred and five.", "105", True),
    ("The answer is one hundred and five.", "100", False),
    ("The answer is two thousand.", "2000", True),
    ("The answer is a dozen.", "12", True),
    ("The answer is two dozen eggs.", "24", True),
    ("The answer is two dozen eggs.", "12", False),
    ("The answer is forty.", "14", False),
    ("There are seven of them.", "7", True),
    ("There are seven of them.", "6", False),
    ("The answer is minus three.", "-3", True),
    ("None", "0", False),  # what a program prints that returns nothing
]
LISTS = [
    ("The answer is (2, 3).", "(2,3)", True),
    ("The answer is (3, 2).", "(2,3)", False),
    ("The answer is $x = 2$ and $y = 3$.", "(2,3)", True),
    ("The answer is $x = 3$ and $y = 2$.", "(2,3)", False),
    ("The answer is (x, y) = (2, 3).", "(2,3)", True),
    ("All real numbers.", r"\mathbb{R}", True),
    ("The answer is [2, 3].", "(2,3)", False),
    (r"\boxed{\{1,2,3\}}", r"\{3,2,1\}", True),
    (r"\boxed{\{1,2\}}", r"\{1,2,3\}", False),
    ("1, 2 and 3", r"\{1,2,3\}", True),
    ("The answer is x = 1 or x = -1.", "1, -1", True),
    ("The answer is x = 1.", "1, -1", False),
    ("The answer is 3 < x < 5.", "(3,5)", True),
    ("The answer is 3 ≤ x < 5.", "(3,5)", False),
    ("The answer is 3:4.", "3:4", True),
    ("The answer is 4:3.", "3:4", False),
    ("The answer is 3 to 4.", "3:4", True),
    ("The answer is 6:8.", "3:4", True),
    ("The answer is y = 1 + 2x.", "y = 2x + 1", True),
    ("The answer is y = 2x - 1.", "y = 2x + 1", False),
    ("The answer is 2x - y + 1 = 0.", "y = 2x + 1", True),
    ("The answer is y = 5.", "x = 5", False),
    ("There is no solution.", r"\emptyset", True),
    ("The answer is 0.", r"\emptyset", False),
    ("1,000 and 2,500", "1000, 2500", True),
    ("1,000 and 2,500", "1000, 2000", False),
]
SENTENCES = [
    ("It is Friday.", "Friday", True),
    ("It is not Friday.", "Friday", False),
    ("The answer is not Friday.", "Friday", False),
    ("Yes, because 3 > 2.", "yes", True),
    ("No. It is odd.", "yes", False),
    ("The answer is false.", "no", True),
    ("The answer is false.", "true", False),
    ("The answer is Zürich.", "Zurich", True),
    ("The answer is Apollo 11.", "apollo 11", True),
    ("The answer is Apollo 13.", "Apollo 11", False),
    ("The answer is Marie Curie.", "Pierre Curie", False),
    ("The answer is paris.", "Paris", True),
]
CHANGED_MINDS = [
    ("The answer is 5. No wait, it is 6.", "6", True),
    ("The answer is 5. No wait, it is 6.", "5", False),
    ("The answer is 5, no, 6.", "6", True),
    ("The answer is 5... sorry, 6.", "6", True),
    ("The answer is 6. Wait, let me check: 2 + 4 = 6, good.", "6", True),
    ("The answer is Paris. Wait, no, London.", "London", True),
    ("The answer is Paris. Wait, no, London.", "Paris", False),
    ("The answer is 5. Actually, the answer is 6.", "5", False),
    (r"\boxed{5} is too small, so \boxed{6}.", "6", True),
    ("The answer is not 5.", "5", False),
    ("The answer isn't 5.", "5", False),
    ("The answer is not 5 but 6.", "6", True),
    ("The answer is not 5 but 6.", "5", False),
    ("The answer is 5 or 6.", "5", False),
    ("The answer is 5 or 6.", "6", False),
    ("The answer is between 5 and 6.", "5", False),
    ("The answer is 5 to 6.", "5", False),
    ("The answer is more than 5.", "5", False),
    ("The answer is 6 (not 5).", "6", True),
    ("It is 6, not 5.", "5", False),
    ("It is 6, not 5.", "6", True),
    ("The answer is 0.5 or 1/2.", "0.5", True),
    ("The answer is about 40.", "40", True),
    (r"First \boxed{3}. The answer is 4.", "3", False),
]
PAIRS = [
    *FACTORIALS, *UNICODE, *UNITS, *GROUPED, *SMALL, *FUNCTIONS, *ABBREVIATIONS, *PERCENT_AND_MONEY,
    *DATES_AND_TIMES, *FRACTIONS, *WORDS_FOR_NUMBERS, *LISTS, *SENTENCES, *CHANGED_MINDS,
]  # fmt: skip


@pytest.fixture(scope="module")
def same_formula():
    with FormulaComparison() as comparison:
        yield comparison


@pytest.mark.parametrize(("written", "gold", "right"), PAIRS)
def test_answers(written, gold, right, same_formula):
    verdict = judge(written, gold, same_formula=same_formula)
    assert verdict.right == right, verdict


@pytest.mark.parametrize(("written", "gold", "right"), CHOICES)
def test_letters(written, gold, right, same_formula):
    verdict = judge(written, gold, PICK, same_formula=same_formula)
    assert verdict.right == right, verdict


@pytest.mark.parametrize(("written", "gold", "question", "right"), WRITTEN_CHOICES)
def test_questions_that_tell_how_to_read(written, gold, question, right, same_formula):
    verdict = judge(written, gold, question, same_formula=same_formula)
    assert verdict.right == right, verdict


def test_half_of_the_answers_are_wrong():
    verdicts = [pair[-1] for pair in (*PAIRS, *CHOICES, *WRITTEN_CHOICES)]
    assert len(verdicts) > 250
    assert 0.4 < sum(verdicts) / len(verdicts) < 0.6
