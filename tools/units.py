"""Writes the table of units that `grading` reads, spurious_rlvr/static/units.json, from pint's definitions.

    python tools/units.py            # writes the table (needs `pip install pint`)
    python tools/units.py --check    # exits 1 where the table and pint differ

pint takes 0.4 s to start and reads text with a tokenizer of its own; a grader reads hostile text in microseconds. So
the factors come from pint, exactly, and the package carries a table of some hundred names. Currency is not in pint.
"""

import argparse
import json
import pathlib
import sys
from fractions import Fraction

TABLE = pathlib.Path(__file__).resolve().parents[1] / "spurious_rlvr" / "static" / "units.json"

# pint's name, and the names that answers use; plurals with s or es are understood
NAMES = {
    "meter": "m meter metre",
    "kilometer": "km kilometer kilometre",
    "decimeter": "dm decimeter decimetre",
    "centimeter": "cm centimeter centimetre",
    "millimeter": "mm millimeter millimetre",
    "micrometer": "µm μm um micrometer micrometre micron",
    "nanometer": "nm nanometer nanometre",
    "inch": "in inch",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile",
    "nautical_mile": "nmi nauticalmile",
    "light_year": "ly lightyear",
    "astronomical_unit": "au",
    "second": "s sec second",
    "millisecond": "ms millisecond",
    "microsecond": "µs μs us microsecond",
    "nanosecond": "ns nanosecond",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "d day",
    "week": "wk week",
    "fortnight": "fortnight",
    "month": "month",
    "year": "yr year",
    "10 * year": "decade",
    "century": "century",
    "gram": "g gram gramme",
    "kilogram": "kg kilogram kilo",
    "milligram": "mg milligram",
    "microgram": "µg μg ug microgram",
    "tonne": "tonne metricton",
    "ton": "ton",
    "pound": "lb lbs pound",
    "ounce": "oz ounce",
    "stone": "stone",
    "liter": "l L liter litre",
    "deciliter": "dl dL deciliter decilitre",
    "centiliter": "cl cL centiliter centilitre",
    "milliliter": "ml mL milliliter millilitre cc",
    "kiloliter": "kl kL kiloliter kilolitre",
    "gallon": "gal gallon",
    "quart": "qt quart",
    "pint": "pt pint",
    "cup": "cup",
    "fluid_ounce": "floz fluidounce",
    "tablespoon": "tbsp tablespoon",
    "teaspoon": "tsp teaspoon",
    "43560 * foot**2": "acre",  # pint's own acre is in survey feet
    "hectare": "ha hectare",
    "mile/hour": "mph",
    "kilometer/hour": "kph kmh",
    "mile/gallon": "mpg",
    "foot/second": "fps",
    "knot": "knot kt",
    "hertz": "Hz hertz",
    "kilohertz": "kHz kilohertz",
    "megahertz": "MHz megahertz",
    "gigahertz": "GHz gigahertz",
    "newton": "N newton",
    "kilonewton": "kN kilonewton",
    "pascal": "Pa pascal",
    "kilopascal": "kPa kilopascal",
    "megapascal": "MPa megapascal",
    "atmosphere": "atm atmosphere",
    "bar": "bar",
    "psi": "psi",
    "joule": "J joule",
    "kilojoule": "kJ kilojoule",
    "megajoule": "MJ megajoule",
    "electron_volt": "eV electronvolt",
    "calorie": "cal calorie",
    "kilocalorie": "kcal kilocalorie",
    "kilowatt_hour": "kWh kilowatthour",
    "watt": "W watt",
    "kilowatt": "kW kilowatt",
    "megawatt": "MW megawatt",
    "horsepower": "hp horsepower",
    "ampere": "A amp ampere",
    "milliampere": "mA milliamp milliampere",
    "volt": "V volt",
    "millivolt": "mV millivolt",
    "kilovolt": "kV kilovolt",
    "ohm": "Ω ohm",
    "kiloohm": "kΩ kiloohm",
    "coulomb": "C coulomb",
    "farad": "F farad",
    "tesla": "T tesla",
    "mole": "mol mole",
    "kelvin": "K kelvin",
    "bit": "bit",
    "byte": "B byte",
    "kilobyte": "KB kB kilobyte",
    "megabyte": "MB megabyte",
    "gigabyte": "GB gigabyte",
    "terabyte": "TB terabyte",
    "kibibyte": "KiB kibibyte",
    "mebibyte": "MiB mebibyte",
    "gibibyte": "GiB gibibyte",
}
# pint takes angles for pure numbers; here a degree is the unit, and a radian carries one factor of 1/π
ANGLES = {
    "degree deg °": ("1", 0),
    "arcminute arcmin": ("1/60", 0),
    "arcsecond arcsec": ("1/3600", 0),
    "revolution rev turn": ("360", 0),
    "grad gradian": ("9/10", 0),
    "rad radian": ("180", -1),
}
# an amount of a scale is factor × amount + offset kelvin
SCALES = {"°C celsius degc": ("1", "5463/20"), "°F fahrenheit degf": ("5/9", "45967/180")}
MONEY = {
    "dollar": {"$ dollar usd buck": "1", "¢ cent": "1/100", "penny pennies": "1/100", "nickel": "1/20", "dime": "1/10"},
    "euro": {"€ euro eur": "1"},
    "pound": {"£ gbp": "1", "pence": "1/100"},
    "yen": {"¥ yen jpy": "1"},
    "rupee": {"₹ rupee inr rs": "1"},
    "yuan": {"yuan rmb cny": "1"},
}


def table():
    "Names with dimension (base and exponent), factor, exponent of π and offset."
    import pint

    registry = pint.UnitRegistry(non_int_type=Fraction)
    units = {}
    for name, words in NAMES.items():
        amount = registry.parse_expression(name).to_base_units()
        bases = dict(sorted((str(base), int(power)) for base, power in amount.unit_items()))
        bases.pop("radian", None)
        factor = Fraction(amount.magnitude)
        for word in words.split():
            units[word] = [bases, str(factor), 0, "0"]
    for words, (factor, pi) in ANGLES.items():
        for word in words.split():
            units[word] = [{"degree": 1}, factor, pi, "0"]
    for words, (factor, offset) in SCALES.items():
        for word in words.split():
            units[word] = [{"kelvin": 1}, factor, 0, offset]
    for currency, names in MONEY.items():
        for words, factor in names.items():
            for word in words.split():
                units[word] = [{f"money {currency}": 1}, factor, 0, "0"]
    return units


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="compare instead of writing")
    options = options.parse_args()
    lines = [f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(unit)}" for name, unit in sorted(table().items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if options.check:
        return int(text != TABLE.read_text("utf-8"))
    TABLE.write_text(text, "utf-8")
    print(f"{len(lines)} names in {TABLE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
