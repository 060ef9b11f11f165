#!/usr/bin/env python3
"""Records the sizes of RE2's programs, which `crates/config` must tell without RE2.

usage: regex_sizes.py [--configs FOLDER] > crates/config/src/re2/sizes.tsv

Needs `pip install google-re2`. The patterns are those below, the `regex` fields of the files in FOLDER, and random ones, which are the
same in every run. A line has the size and the pattern.
"""
import argparse
import random
import re
from pathlib import Path

import re2

PATTERNS = r"""
a ab [ab] [a-cx-z] [^a] \d \w \W \s \S \D [^/]+ (?i)k (?i)abc (?i)[a-f0-9] . (?s). (?s).* (?s).*a .* .*a a.* (a) (a*)* a* a+ a? x*? x+? x??
(?:ab)* a|b a|bc abc|abd abc|xyz ab|ac|ad (?:|a) (?:a|) (?:|a|) ^a ^a$ a$ ^ $ ^$ \A\z \bfoo \Bfoo\b ^/foo(/.*)?$ ^/foo ^foo|bar$ (^a) (a$) ((((^a))))
a{3} a{2,4} a{2,} a{0} a{0,1} a{1} a{0,} a{1,} a{0,3} (ab){3} (?:ab){2,3} a{96} a{97} a{100} (a{2}){3} (?:^){3} (?:^|$){2,} (?:\b){0,5} x{2}?
a*a a*aa a*aab a+a* a?a+ a*a*a* [ab]*[ab] .*.* .+.* (?s).*.* a{2}a{3} a*(?i)a (?U)a*a+? a*b*a*
a|a a|ab|abc abc|ab|a a|A (?i)a|b [ab]|c a|[bc]|d .|a (?s).|a (?s)a|. (?s)a|.|b \C|a [ab]x|[ab]y ^a|^b \ba|\bb a{2}b|a{2}c (?:a*b|a*c)
foo|foobar|foobaz foo/a|foo/b|bar/a|bar/b GET|POST|PUT|PATCH|DELETE|OPTIONS|HEAD /v1/a|/v1/b|/v2/a (?:abc|abd)|abe (?i)abc|abd|ABE
(a|b)* (a|b)+ (a|b)? (?:a|b|)* (a|(b|(c|d))) (a)(b)(c) (?:(?:a*)+)? (?:a?)* (?:a?)+ (?:a*b?)* (?:(a*)|b)* ((a*)|b)* (?:a|b*)* (?:(?:a|b)|c)*
[^\x00-\xff] a[^\x00-\xff]b a|[^\x00-\xff] [^\x00-\xff]* [\x00-\xff] [\s\S] [\d\D]* [[:alpha:]] [[:^alpha:]] (?i)[[:upper:]] \pL \pN \p{Greek} \PN \p{Lu}
é é? [é-ü] (?i)é Ä+ \x41 \x{41} \101 \Qa.b*\E \Qab\E+ [.] [Aa] [aA]b [Aa][Bb] (?i)1 (?i)1a2 (?m)^a$ (?m)^ (?m)$ (?-s). (?i:a)b a(?i)b|c
[a-zA-Z0-9_-]+ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ^/api/v[0-9]+/users/([^/]+)/posts$ ^https?://([^./]+\.)*example\.com(:[0-9]+)?$ .*\.(?:jpg|jpeg|png|gif|css|js)$
^\d{3}-\d{2}-\d{4}$ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12} .*a.*b.*c (.*)/(.*)/(.*) ((a|b)(c|d)){5}
(?:a|b|c|d|e){10} (x(y(z)?)?)? (x|y|z){2,5} [^a-z]{4,} (a+b+)+ (?:a+|b+)* (?:a{2,3}){2,3} a{0,20} (a?){10}a{10} .{10} .{3,7} \w{3}\W{3}
""".split()


def random_pattern(dice, depth=0):
    """A pattern that RE2 takes, most of the time."""
    atoms = ["a", "b", "c", "ab", "abc", "A", "/", ".", "[ab]", "[^a]", "[a-c]", r"\d", r"\w", r"\S", "^", "$", r"\b", "x", "1"]
    kind = dice.random()
    if depth > 3 or kind < 0.35:
        return dice.choice(atoms)
    inner = lambda: random_pattern(dice, depth + 1)
    if kind < 0.6:
        return "".join(inner() for _ in range(dice.randint(2, 4)))
    if kind < 0.75:
        return "(?:" + "|".join(inner() for _ in range(dice.randint(2, 4))) + ")"
    if kind < 0.8:
        return "(" + "|".join(dice.choice(["", *atoms]) for _ in range(dice.randint(2, 5))) + ")"
    if kind < 0.85:
        return "(" + inner() + ")"
    if kind < 0.88:
        return "(?" + dice.choice(["i", "s", "m", "U", "is"]) + ":" + inner() + ")"
    count = dice.choice(["*", "+", "?", "*?", "+?", "{2}", "{0,2}", "{1,3}", "{2,}", "{0}"])
    return "(?:" + inner() + ")" + count if dice.random() < 0.7 else dice.choice(atoms[:12]) + count


def size(pattern):
    """The size of RE2's program with Envoy's options; none if RE2 refuses the pattern."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options).programsize
    except re2.error:
        return None


def of_configs(folder):
    """The `regex` fields of all files."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            for value in re.findall(r"""\bregex["']?:\s*(.+?),?\s*$""", path.read_text(errors="replace"), re.M):
                yield value.strip("'\" }").replace("\\\\", "\\")


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs")
    parser.add_argument("--random", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    dice = random.Random(words.seed)
    patterns = [*PATTERNS, *(of_configs(words.configs) if words.configs else []), *(random_pattern(dice) for _ in range(words.random))]
    for pattern in dict.fromkeys(patterns):
        found = size(pattern)
        if pattern and found is not None and len(pattern) < 300 and not re.search(r"[\t\n\r]", pattern):
            print(f"{found}\t{pattern}")


if __name__ == "__main__":
    main()
