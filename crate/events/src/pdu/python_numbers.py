"""Writes python_numbers.txt: numbers, and what Python's json module makes of them."""

import json
import random
import struct

random.seed(1)
numbers = """-0 -0.0 0.0 0e0 -0e5 1e3 1E3 1E+3 1e-3 1.0 1.50 2e3 0.1 0.30000000000000004 1e15 1e16 1e17 -1e16 123456789012345680
9007199254740991.0 9007199254740992 9007199254740993 -9007199254740992 9007199254740993.0 18446744073709551615 18446744073709551616
0.0001 0.00001 1e-4 1e-5 1.5e-5 1e-7 5e-324 2e-324 4.9e-324 2.2250738585072014e-308 2.225073858507201e-308 1.7976931348623157e308
1.7976931348623158e308 1.7976931348623159e308 1e308 1e309 1E400 -1E400 1e-400 1e22 1e23 1e21 9.5e22 100000000000000000000000
1234567890123456789012345678901234567890 9999999999999998 9999999999999999.0 99999999999999999.0 0.1e1 1e1 1e0 1e00 1e-0
3.14159265358979323846264338327950288 5.114698E4 50.57 1.0e-7""".split()
for exponent in range(-1074, 1024):
    numbers.append("%.800g" % 2.0**exponent if exponent % 100 == 0 else "-%.17e" % 2.0**exponent)
for exponent in range(-330, 310):
    numbers.append("%de%d" % (random.randint(1, 99999), exponent))
    numbers.append("%.17e" % random.uniform(10.0 ** min(max(exponent, -300), 300), 1))
for _ in range(1000):
    value = struct.unpack("<d", random.randbytes(8))[0]
    if value == value and abs(value) != float("inf"):
        numbers.append("%.17g" % value)
for sign, digits in (("", 16), ("-", 17), ("", 20), ("-", 309), ("", 310), ("-", 4300), ("", 4300), ("", 4301), ("-", 4301)):
    numbers.append(sign + "".join(random.choice("123456789") for _ in range(digits)))
numbers += ["0." + "3" * 5000, "1" * 300 + ".5", "1" * 400 + ".5"]

with open("python_numbers.txt", "w") as out:
    for number in dict.fromkeys(numbers):
        try:
            written = json.dumps(json.loads(number), allow_nan=False)
        except ValueError:
            written = ""
        out.write(f"{number}\t{written}\n")
