"""Units of measure and of money: which differ, and which say the same in other numbers.

A small table and not a library of units: people count apples and pages, which such a library takes
for something else (points, hands, rods) or for a mistake.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

# Dimension: size and names of its units; the first unit is one.
_TABLE = {
    "length": "1 m meter metre; 1/1000 mm millimeter millimetre; 1/100 cm centimeter centimetre; "
    "1000 km kilometer kilometre; 1/1000000 um μm micrometer; 1/1000000000 nm nanometer; "
    "254/10000 in inch inche; 3048/10000 ft foot feet; 9144/10000 yd yard; 1609344/1000 mi mile",
    "mass": "1 g gram; 1/1000 mg milligram; 1000 kg kilogram kilo; 1000000 t ton tonne; "
    "45359237/100000 lb pound; 45359237/1600000 oz ounce",
    "time": "1 s sec second; 1/1000 ms millisecond; 60 min minute; 3600 h hr hour; 86400 d day; "
    "604800 week",
    "months": "1 month; 12 year yr",
    "volume": "1 l L liter litre; 1/1000 ml mL milliliter millilitre",
    "dollar": "1 dollar USD; 1/100 cent ¢",
    "euro": "1 euro EUR €",
    "rupee": "1 rupee INR Rs ₹; 1/100 paise paisa",
    "yen": "1 yen JPY",
    "force": "1 N newton; 1000 kN kilonewton",
    "energy": "1 J joule; 1000 kJ kilojoule; 1000000 MJ megajoule; 3600000 kWh",
    "power": "1 W watt; 1000 kW kilowatt; 1000000 MW megawatt; 1/1000 mW milliwatt",
    "voltage": "1 V volt; 1000 kV kilovolt; 1/1000 mV millivolt",
    "current": "1 A ampere amp; 1/1000 mA milliampere",
    "charge": "1 coulomb",
    "pressure": "1 Pa pascal; 1000 kPa kilopascal; 100000 bar",
    "frequency": "1 Hz hertz; 1000 kHz kilohertz; 1000000 MHz megahertz; 1000000000 GHz",
    "celsius": "1 C celsius",
    "fahrenheit": "1 F fahrenheit",
    "kelvin": "1 K kelvin",
    "radian": "1 rad radian",
    "degree": "1 degree deg",
    "mole": "1 mol mole",
}
_NAMED = {
    name: (dimension, Fraction(entry.split()[0]))
    for dimension, entries in _TABLE.items()
    for entry in entries.split(";")
    for name in entry.split()[1:]
}
#: What people leave out or turn around: "square metres" for "m^2".
_WHOLE = {
    "mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mps": "m/s",
    "degrees c": "C", "degrees celsius": "C", "degrees f": "F", "degrees fahrenheit": "F",
}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_PART = re.compile(r"([^\W\d_]+|[€₹¢])\.?(?:\s*\^\s*\{?\s*(-?[1-3])\s*\}?|([23])(?!\d))?")
_SEPARATOR = re.compile(r"\s*(/|\bper\b|\ban?\b|\*|-|\s)\s*")


_DEGREES = frozenset({("degree", 1)})
_THERMOMETERS = {frozenset({("celsius", 1)}), frozenset({("fahrenheit", 1)})}


class Unit(NamedTuple):
    """What is measured, as dimensions with their powers, and how large the unit is."""

    dimensions: frozenset[tuple[str, int]]
    size: Fraction


@lru_cache(4096)
def parse_unit(text: str) -> Unit | None:
    """Return the unit that a text names; ``None`` where it is no common one.

    Args:
        text: Such as "km/h", "square metres" or "apples".

    Returns:
        The unit.

    Example:
        >>> parse_unit("km").size, parse_unit("N") == parse_unit("newtons"), parse_unit("apples")
        (Fraction(1000, 1), True, None)
        >>> parse_unit("sq. ft") == parse_unit("ft^2")
        True
    """
    text = text.strip().rstrip(".")
    text = _WHOLE.get(text.lower(), text)
    powers: dict[str, int] = {}
    size, power, sign, place = Fraction(1), 1, 1, 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        place = part.end()
        if part[1].lower() in _POWERS:
            power = _POWERS[part[1].lower()]
        else:
            named = _find(part[1])
            if named is None:
                return None
            power *= sign * int(part[2] or part[3] or 1)
            powers[named[0]] = powers.get(named[0], 0) + power
            size *= named[1] ** power
            power = 1
        if separator := _SEPARATOR.match(text, place):
            place = separator.end()
            sign = -1 if separator[1] in {"/", "per", "a", "an"} else sign
        elif place < len(text):
            return None
    dimensions = frozenset((name, power) for name, power in powers.items() if power)
    return Unit(dimensions, size) if dimensions else None


def differ(one: Unit, other: Unit) -> bool:
    """Tell whether two units measure different things.

    Args:
        one: A unit.
        other: Another.

    Returns:
        Whether they do; degrees may be those of a thermometer.

    Example:
        >>> differ(parse_unit("m"), parse_unit("km")), differ(parse_unit("m"), parse_unit("m^2"))
        (False, True)
    """
    measured = {one.dimensions, other.dimensions}
    return len(measured) > 1 and not (_DEGREES in measured and measured & _THERMOMETERS)


def _find(name: str) -> tuple[str, Fraction] | None:
    """The dimension and size of a unit; case tells short ones apart."""
    if name in _NAMED:
        return _NAMED[name]
    lower = name.lower()
    if len(name) == 1 or (len(name) == 2 and not name.isupper()):
        return None
    return _NAMED.get(lower) or (_NAMED.get(lower[:-1]) if lower.endswith("s") else None)
