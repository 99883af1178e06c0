r"""Answers judged by hand: the table is the specification, with wrong answers that stay wrong."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colm.evaluation.judging.equivalence import FormulaComparison
from colm.evaluation.judging.final_answer import answer_kind, final_answer, marked_answer
from colm.evaluation.judging.judgement import judge, same_answer
from colm.evaluation.judging.quantities import parse_quantity
from colm.evaluation.reading.choices import choices_of

OPEN, CLOSE = r"\begin{pmatrix}", r"\end{pmatrix}"
CHOOSE = "Which offers more resistance?\nAnswer Choices: (A) web (B) tree (C) 12 cm"

# What was written, the right answer, whether it is right; numbers and text need no algebra.
NUMBERS = [
    ("The answer is 1,000.", "1000", True),
    ("1000.0", "1,000", True),
    ("The answer is 1000.", "10000", False),
    ("She has $5 left. The answer is $5.", "5", True),
    ("The answer is 5 dollars.", "5", True),
    ("The answer is 5 dollars.", "5.5", False),
    ("The answer is 50%.", "50", True),
    ("The answer is 50%.", "0.5", True),
    ("The answer is 0.5%.", "50", False),
    ("0.5", "50%", True),
    ("0.5%", "50%", False),
    ("0.33", r"33\%", True),
    ("1/3", r"33\%", False),
    ("He pays 180,000.", "180000", True),
    ("The answer is 1/2.", "0.5", True),
    ("The answer is 1/3.", "0.33", True),
    ("The answer is 0.33.", "1/3", False),
    ("0.6666666666666666", "0.6667", True),
    ("0.6666666666666666", r"\frac{2}{3}", True),
    ("0.67", "0.6667", False),
    ("0.7512", "0.75", True),
    ("0.2549", "0.25", False),
    ("199.99999999999997", "200", True),
    ("199", "200", False),
    ("1000001", "1000000", False),
    ("The answer is -7.", "-7", True),
    ("The answer is \u22127.", "-7", True),
    ("The answer is 7.", "-7", False),
    ("It is 10-3 = 7", "7", True),
    ("10-3", "3", True),  # the last number, which is no negative one
    ("First 12, then 15, so 27 in all.", "27", True),
    ("First 12, then 15, so 27 in all.", "12", False),
    ("6 * 7 = 42\nThe answer is 6 * 7 = 42.", "42", True),
    ("#### 18", "18", True),
    ("#### 18", "1", False),
    (r"Therefore $x = \boxed{18}$ apples.", "18", True),
    (r"\boxed{17} no: \boxed{18}", "17", False),
    ("**Answer:** 18", "18", True),
    ("The final answer is: $18$.", "18", True),
    ("Final Answer: The final answer is $18$. I hope it is correct.", "18", True),
    ("The answer is 2 1/2 hours.", "2.5", True),
    (r"12\frac{3}{5}", "12.6", True),
    (r"\frac{-3}{4}", "0.75", False),
    (r"-\frac{3}{4}", "-0.75", True),
    ("The answer is 1.5 million.", "1500000", True),
    (r"1.5 \times 10^3", "1500", True),
    ("1.5e3", "1500", True),
    ("The answer is four.", "4", True),
    ("The answer is four.", "5", False),
    ("5 cm", "5", True),
    ("The answer is 5 cm.", "5 m", False),
    ("The answer is 5 centimeters.", r"5 \text{ cm}", True),
    ("The answer is 25 degrees.", r"25^\circ", True),
    ("15 novelists and 9 poets. The answer is 15, 9.", "15", True),
    ("The answer is 16, 9.", "15", False),
    ("The answer is x = 5.", "5", True),
    ("I do not know.", "5", False),
    ("", "5", False),
    ("nan", "5", False),
    (r"\$16,\!386.16", "16386.16", True),
    (r"198\%", "198", True),
    ("The answer is 3.5", "3", False),
    ("The answer is 3. There were 4 before.", "3", True),
    ("1e999999999", "5", False),
    ("The answer is $1{,}200$.", "1200", True),
    (r"The answer is $10\text{ cm}^2$.", "10", True),
    (r"The answer is $\approx 12.5$.", "12.5", True),
    (r"The answer is $\frac{25}{3} \approx 8.33$.", r"\frac{25}{3}", True),
    ("The answer is 2.4 (or 12/5).", "2.4", True),
    # Marks that no number follows.
    ("The answer is 12. This answer is correct.", "12", True),
    (r"So $\boxed{12}$. I check the answer: it is reasonable.", "12", True),
    ("He has 12. I hope this answer is helpful.", "12", False),
    # Several values: the first counts, in words and as programs print them.
    ("The answer is x = 15 and y = 9.", "15", True),
    ("The answer is x = 15, y = 9.", "9", False),
    ("[15, 9]", "15", True),
    ("(15.0, 9.0)", "9", False),
    ("15 9", "15", True),
    ("{x: 15, y: 9}", "15", True),
    ("{'novelists': 15, 'poets': 9}", "15", True),
    ("[np.float64(15.0), np.float64(9.0)]", "15", True),
    ("Matrix([[15], [9]])", "15", True),
    ("Fraction(9, 7)", "9/7", True),
    ("[Fraction(9, 7), Fraction(1, 2)]", "9/7", True),
    ("\\boxed{90\\text{ square\nunits}}", "90", True),
    ("Poets: 15, novelists: 9", "15", True),
    ("5 + 7 = 12", "12", True),
    ("He needs 3 boxes for 36 eggs", "36", True),
]
#: What a model writes that does not stop.
NEXT_QUESTIONS = [
    "\n\n### Instruction:\nAnd of France?\n\n### Response:\nThe answer is 35.",
    "\n\nQuestion: And of France?\nAnswer: 35",
    "\nQ: And of 35 of them?",
    "<|im_end|>\n<|im_start|>user\nThe answer is 35.",
    "</s> 35",
]
WORDS = [
    ("The answer is B.", "B", True),
    ("The answer is (B).", "B", True),
    ("(B)", "B", True),
    ("B) tree", "B", True),
    ("b", "B", True),
    ("tree", "B", True),
    ("The answer is the web, choice (A).", "A", True),
    ("A tree offers more, so it is (B).", "A", False),
    ("The answer is C.", "B", False),
    ("The answer is 12 cm.", "C", True),
    ("Neither.", "A", False),
    ("The answer is $\\boxed{\\text{(A)}}$.", "A", True),
    ("The answer is Friday.", "Friday", True),
    ("friday", "Friday", True),
    ("Monday", "Friday", False),
    ("yes", "Yes", True),
    ("True", "yes", True),
    ("No, he did not.", "no", True),
    ("No, he did not.", "yes", False),
    ("The Federal Palace.", "Federal Palace", True),
    ("The answer is Evelyn.", r"\text{Evelyn}", True),
    ("The answer is the Federal Palace in Bern.", "The Federal Palace", False),
    ("", "Friday", False),
    ("The answer is the web.", "A", True),
    ("The answer is a tree.", "B", True),
    ("The answer is B because A is hotter.", "B", True),
    ("B\n\nThe web, A, is lower.", "B", True),
    ("['B']", "B", True),
    ("The answer is A and B.", "B", False),
    ("The answer is (A) or (B).", "A", False),
    ("Neither A nor B.", "B", False),
]
FORMULAS = [
    (r"The answer is $\frac{\sqrt{2}}{2}$.", r"\frac{1}{\sqrt{2}}", True),
    ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}", True),
    ("0.7071067811865476", r"\frac{\sqrt{2}}{2}", True),
    ("0.71", r"\frac{\sqrt{2}}{2}", False),
    (r"\sqrt{3}", r"\sqrt{2}", False),
    (r"The answer is $10\pi$.", r"10\pi", True),
    ("10*pi", r"10\pi", True),
    ("31.41592653589793", r"10\pi", True),
    ("The answer is 10.", r"10\pi", False),
    ("x**2 + 10*x + 25", "x^2 + 10x + 25", True),
    ("(x + 5)^2", "x^2 + 10x + 25", True),
    ("(x + 5)^2 + 1", "x^2 + 10x + 25", False),
    (r"\boxed{y = 3x^2 - 34x + 88}", "y = 3x^2 - 34x + 88", True),
    ("3x^2 - 34x + 88", "y = 3x^2 - 34x + 88", True),
    ("x = 5", "x=5", True),
    ("5", "x=5", True),
    ("x=-5", "x=5", False),
    ("-360*f", "-360*f", True),
    ("-360f", "-360*f", True),
    ("360f", "-360*f", False),
    ("2x", "2", False),
    (r"The answer is $(3,2)$.", "(3,2)", True),
    ("(2,3)", "(3,2)", False),
    ("[3,2]", "(3,2)", False),
    ("(0,1)", "[0,1)", False),
    ("[0,1)", "[0, 1)", True),
    ("-2, 1", "1,-2", True),
    ("1 and -2", "1,-2", True),
    ("1", "1,-2", False),
    ("[1, -2]", "1,-2", True),
    ("6, 4, 0", "6 4 0", True),
    ("0, 4, 6", "6 4 0", False),
    ("640", "6 4 0", False),
    ("3", "[3]", True),
    ("[3]", "[5]", False),
    (r"\left( \frac{4}{3}, -\frac{1}{3} \right)", "(4/3, -1/3)", True),
    ("1200_7", "1200_{7}", True),
    ("1200", "1200_7", True),
    ("1200_8", "1200_7", False),
    (r"(-\infty,5) \cup (5,\infty)", r"(-\infty, 5)\cup(5, \infty)", True),
    (r"(-\infty,5] \cup (5,\infty)", r"(-\infty, 5)\cup(5, \infty)", False),
    (rf"{OPEN}1/5 \\ -3/5{CLOSE}", rf"{OPEN} 0.2 \\ -0.6 {CLOSE}", True),
    (rf"{OPEN}1/5 \\ 3/5{CLOSE}", rf"{OPEN}1/5 \\ -3/5{CLOSE}", False),
    ("3 + 5i", "5i + 3", True),
    ("3 - 5i", "3 + 5i", False),
    (r"\cos 58^\circ", r"\cos 58^\circ", True),
    (r"\frac{c}{a}", r"\frac{a}{c}", False),
    ("The answer to the last question is [3].", "[3]", True),
    ("**Answer**: 2x", "2x", True),
    ("The answer is $2x$. This answer is correct.", "2x", True),
    ("The answer is 3, 5.", "[3, 5]", True),
    ("The answer is 5, 3.", "[3, 5]", False),
    ("(3, 5)", "[3, 5]", False),
    ("-375 + 500*I", "-375 + 500i", True),
    ("(3-5j)", "3 - 5i", True),
    ("(3+5j)", "3 - 5i", False),
    ("-1/2*y", r"-\frac{y}{2}", True),
    ("3 * 4", r"2\sqrt{36}", True),
    ("Matrix([[6], [3], [0]])", rf"{OPEN} 6 \\ 3 \\ 0 {CLOSE}", True),
    ("Matrix([[6, 3, 0]])", rf"{OPEN} 6 \\ 3 \\ 0 {CLOSE}", False),
    ("Matrix([[2, -3], [0, 3]])", rf"{OPEN} 2 & -3 \\ 0 & 3 {CLOSE}", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def same_formula():
    with FormulaComparison() as comparison:
        yield comparison


@pytest.mark.parametrize(("written", "gold", "right"), NUMBERS)
def test_numbers(written, gold, right):
    assert judge(written, gold).right == right


@pytest.mark.parametrize(("written", "gold", "right"), WORDS)
def test_letters_and_words(written, gold, right):
    question = CHOOSE if len(gold) == 1 else ""
    assert judge(written, gold, question).right == right


@pytest.mark.parametrize(("written", "gold", "right"), FORMULAS)
def test_formulas(written, gold, right, same_formula):
    assert judge(written, gold, same_formula=same_formula).right == right


KINDS = [
    ("42", "", "number"),
    ("B", CHOOSE, "choice"),
    ("I", "", "maths"),
    (r"\text{(C)}", "", "choice"),
    ("a", "", "maths"),
    (r"\frac{c}{a}", "", "maths"),
    ("(3,2)", "", "maths"),
    ("Friday", "", "text"),
    ("The Federal Palace", "", "text"),
    (r"25^\circ", "", "number"),
]


@pytest.mark.parametrize(("gold", "question", "kind"), KINDS)
def test_kinds(gold, question, kind):
    assert answer_kind(gold, question) == kind


def test_direct_answers_come_first():
    written = "Bern\nAnd of France it is Paris"
    assert not judge(written, "Bern").right
    assert judge(written, "Bern", direct=True).right
    assert judge("Bern\n\nIt is in Switzerland.", "Bern", direct=True).right
    assert final_answer(r"First $x$, then $\pi$.", "maths") == r"\pi"


@pytest.mark.parametrize("going_on", NEXT_QUESTIONS)
def test_what_follows_a_next_question_does_not_count(going_on):
    assert judge(f"The answer is 12.{going_on}", "12").right
    assert judge(f"3 times 4 is 12.{going_on}", "12").right
    assert judge(f"Bern{going_on}", "Bern", direct=True).right
    assert judge("Question: 3 bags of 4?\nThe answer is 12.", "12").right


@pytest.mark.parametrize(
    "written", ["[" * 400 + "5" + "]" * 400, "\\boxed{" * 2000, "#### " * 2000]
)
def test_degenerate_answers_are_wrong_at_once(written):
    began = time.monotonic()
    for gold in ("7", "[3]", "B", "x^2"):
        assert not judge(written, gold, CHOOSE, same_formula=lambda *_: False).right
    assert time.monotonic() - began < 20


def test_a_choice_ends_where_the_question_goes_on():
    question = "(A) Line\n(B) Circle\n\nEnter the letter of the correct option."
    assert choices_of(question) == {"A": "Line", "B": "Circle"}


@pytest.mark.parametrize("written", ["", "\n", r"\boxed{", "The answer is", "####", "answer:\n\n"])
@pytest.mark.parametrize("gold", ["5", "B", "yes", r"\pi"])
def test_nothing_written_is_wrong(written, gold):
    assert not judge(written, gold, CHOOSE).right


fractions = st.fractions(-(10**9), 10**9, max_denominator=10**4)
exact = settings(deadline=None, derandomize=True, database=None, max_examples=60)


@pytest.mark.slow
@exact
@given(fractions)
def test_a_number_equals_itself_however_it_is_written(value):
    top, bottom = value.numerator, value.denominator
    sign = "-" if top < 0 else ""
    latex = rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}"
    forms = [f"{top}/{bottom}", latex, repr(top / bottom), f"${latex.replace('frac', 'dfrac')}$"]
    if bottom == 1:
        forms += [f"{top:,}", f"{top}.0", f"{top} apples", f"{top:,.2f}"]
    for gold in forms:
        for form in forms:
            assert same_answer(gold, form), (gold, form)
            assert judge(f"We take 99 of 100.\nThe answer is {form}.", gold).right, (gold, form)


@exact
@given(fractions, fractions)
def test_different_numbers_differ(first, second):
    if abs(first - second) > abs(first) / 10**5:
        for gold in (str(first), repr(float(first))):
            if parse_quantity(gold).decimals < 2 or abs(first - second) > abs(first) / 50:
                assert not same_answer(gold, str(second))
                assert not same_answer(gold, repr(float(second)))


@exact
@given(st.text(alphabet="0123456789.,/%$-+ex^{}()\\frac pi=sqrt _ABC", max_size=40))
def test_whatever_is_written_gets_a_verdict(text):
    for gold in ("5", "B", "yes", "(1,2)", "x^2"):
        judge(text, gold, CHOOSE)
    judge(text, text or "0")
    assert marked_answer(text) is None or "answer" in text or "####" in text or "boxed" in text


@pytest.mark.slow
def test_hard_formulas_take_no_more_than_their_time():
    with FormulaComparison(seconds=2.0) as same:
        assert same("x + 1", "1 + x")
        assert not same("x + 1", "9^{9^{9^{9}}}")
        assert same(r"\sqrt{8}", r"2\sqrt{2}"), "a new process answers"
        assert not same("x", "x" * 1000)
        assert not same(r"\frac{1}{", "1")


@pytest.mark.slow
def test_hard_formulas_together_take_no_more_than_their_time():
    polynomials = [(rf"(x+1)^{{{n}}}(x-1)^{{{n}}}", f"(x^2-1)^{{{n}}}") for n in range(250, 260)]
    with FormulaComparison(seconds=1.0, total_seconds=2.0) as same:
        assert same("x + 1", "1 + x")
        began = time.monotonic()
        for pair in polynomials:
            same(*pair)
        towers = [same("x + 1", f"9^{{9^{{9^{{{n}}}}}}}") for n in range(9, 19)]
        assert time.monotonic() - began < 15
        assert same.unsettled > 5
        assert not any(towers)


@pytest.mark.slow
def test_values_settle_what_algebra_does_not():
    with FormulaComparison() as same:
        assert same(r"\cos\frac{\pi}{7}-\cos\frac{2\pi}{7}+\cos\frac{3\pi}{7}", r"\frac12")
        assert not same(r"\cos\frac{\pi}{7}-\cos\frac{2\pi}{7}", r"\frac12")
        assert not same("10^{60} + 1", "10^{60}")
        assert same.unsettled == 0
        # Algebra may take longer than there is time, but the values are known.
        assert same("(x+1)^{250}(x-1)^{250}", "(x^2-1)^{250}")


@pytest.mark.slow
def test_formulas_are_compared_from_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    pairs = [(f"x + {n}", f"{n % 3} + x") for n in range(12)]
    with FormulaComparison() as same, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: same(*pair), pairs))
    assert found == [n < 3 for n in range(12)]
