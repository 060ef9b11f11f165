//! The size of RE2's program for an expression, which Envoy limits.
//!
//! No program is run here; only its instructions are counted, and so they have no operands but where they lead to.

mod flatten;

use super::regexp::ByteSet;
use super::regexp::Count;
use super::regexp::Look;
use super::regexp::Regexp;
use super::simplify::simplify;

/// How many instructions RE2's program for `node` has.
pub(super) fn size(node: &Regexp) -> usize {
    let mut node = simplify(without_prefix(node.clone()));
    let is_anchored = take_anchor(&mut node, 0, Look::is_text_start, |parts| parts.first_mut());
    take_anchor(&mut node, 0, Look::is_text_end, |parts| parts.last_mut());
    let mut compiler = ProgramCompiler {
        program: vec![Instruction::Fail],
    };
    let fragment = compiler.compile(&node);
    let end = compiler.add(Instruction::Match);
    let mut all = compiler.cat(fragment, end);
    let start = all.begin;
    if !is_anchored {
        let byte = compiler.byte(ANY);
        let skip = compiler.star(byte);
        all = compiler.cat(skip, all);
    }
    if start == 0 && all.begin == 0 {
        return 1;
    }
    flatten::size(compiler.program, start, all.begin)
}

/// RE2 looks for a literal after `^` by itself, and compiles only the rest.
fn without_prefix(node: Regexp) -> Regexp {
    let Regexp::Concat(mut parts) = node else {
        return node;
    };
    let is_start = |part: &&Regexp| matches!(part, Regexp::Look(look) if look.is_text_start());
    let anchors = parts.iter().take_while(is_start).count();
    if anchors == 0 || !matches!(parts.get(anchors), Some(Regexp::Literal(_))) {
        return Regexp::Concat(parts);
    }
    Regexp::concat(parts.split_off(anchors + 1))
}

/// Removes a condition that every match begins or ends with, at most four levels down; whether there was one.
fn take_anchor(
    node: &mut Regexp,
    depth: usize,
    is_anchor: fn(Look) -> bool,
    end: fn(&mut Vec<Regexp>) -> Option<&mut Regexp>,
) -> bool {
    if depth >= 4 {
        return false;
    }
    match node {
        Regexp::Concat(parts) => {
            end(parts).is_some_and(|part| take_anchor(part, depth + 1, is_anchor, end))
        }
        Regexp::Capture(inner) => take_anchor(inner, depth + 1, is_anchor, end),
        Regexp::Look(look) if is_anchor(*look) => {
            *node = Regexp::Empty;
            true
        }
        _ => false,
    }
}

impl Look {
    fn is_text_start(self) -> bool {
        self == Look::TextStart
    }

    fn is_text_end(self) -> bool {
        matches!(self, Look::TextEnd | Look::Dollar)
    }
}

/// An instruction and the numbers of those that may follow it. 0 is `Fail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    Fail,
    Match,
    Nop(usize),
    /// Two ways to go on.
    Alt(usize, usize),
    /// `Alt` between a loop over all bytes and a match.
    AltMatch(usize, usize),
    /// One byte; whether it is any.
    Byte(bool, usize),
    Capture(usize),
    Look(usize),
}

/// Any byte.
const ANY: bool = true;

impl Instruction {
    /// The instruction that may follow it.
    fn out(&mut self) -> Option<&mut usize> {
        match self {
            Instruction::Nop(out)
            | Instruction::Alt(out, _)
            | Instruction::AltMatch(out, _)
            | Instruction::Byte(_, out)
            | Instruction::Capture(out)
            | Instruction::Look(out) => Some(out),
            Instruction::Fail | Instruction::Match => None,
        }
    }

    /// The second instruction that may follow it.
    fn out1(&mut self) -> Option<&mut usize> {
        match self {
            Instruction::Alt(_, out) | Instruction::AltMatch(_, out) => Some(out),
            _ => None,
        }
    }
}

/// A part of the program. One that begins with 0 matches nothing.
#[derive(Debug, Default)]
struct Fragment {
    begin: usize,
    /// Which instructions lead to what follows, and whether by their second way.
    ends: Vec<(usize, bool)>,
    is_nullable: bool,
}

struct ProgramCompiler {
    program: Vec<Instruction>,
}

impl ProgramCompiler {
    fn add(&mut self, instruction: Instruction) -> Fragment {
        self.program.push(instruction);
        let begin = self.program.len() - 1;
        let ends = match instruction {
            Instruction::Match => Vec::new(),
            _ => vec![(begin, false)],
        };
        Fragment {
            begin,
            ends,
            is_nullable: matches!(instruction, Instruction::Nop(_) | Instruction::Look(_)),
        }
    }

    fn byte(&mut self, is_any: bool) -> Fragment {
        self.add(Instruction::Byte(is_any, 0))
    }

    /// Lets all `ends` lead to `target`.
    fn patch(&mut self, ends: &[(usize, bool)], target: usize) {
        for (at, is_second) in ends {
            let instruction = &mut self.program[*at];
            let out = match is_second {
                true => instruction.out1(),
                false => instruction.out(),
            };
            if let Some(out) = out {
                *out = target;
            }
        }
    }

    fn cat(&mut self, first: Fragment, second: Fragment) -> Fragment {
        if first.begin == 0 || second.begin == 0 {
            return Fragment::default();
        }
        self.patch(&first.ends, second.begin);
        // What does nothing is left out.
        if matches!(self.program[first.begin], Instruction::Nop(_))
            && first.ends == [(first.begin, false)]
        {
            return second;
        }
        Fragment {
            begin: first.begin,
            ends: second.ends,
            is_nullable: first.is_nullable && second.is_nullable,
        }
    }

    fn alt(&mut self, first: Fragment, second: Fragment) -> Fragment {
        if first.begin == 0 {
            return second;
        }
        if second.begin == 0 {
            return first;
        }
        let alt = Instruction::Alt(first.begin, second.begin);
        self.program.push(alt);
        Fragment {
            begin: self.program.len() - 1,
            ends: [first.ends, second.ends].concat(),
            is_nullable: first.is_nullable || second.is_nullable,
        }
    }

    /// An instruction that leads to `body` or on. The order does not matter for the size.
    fn branch(&mut self, body: &Fragment) -> (usize, (usize, bool)) {
        self.program.push(Instruction::Alt(body.begin, 0));
        let at = self.program.len() - 1;
        (at, (at, true))
    }

    fn plus(&mut self, body: Fragment) -> Fragment {
        let (at, end) = self.branch(&body);
        self.patch(&body.ends, at);
        Fragment {
            ends: vec![end],
            ..body
        }
    }

    fn star(&mut self, body: Fragment) -> Fragment {
        if body.is_nullable {
            let plus = self.plus(body);
            return self.quest(plus);
        }
        let (begin, end) = self.branch(&body);
        self.patch(&body.ends, begin);
        Fragment {
            begin,
            ends: vec![end],
            is_nullable: true,
        }
    }

    fn quest(&mut self, mut body: Fragment) -> Fragment {
        if body.begin == 0 {
            return self.add(Instruction::Nop(0));
        }
        let (begin, end) = self.branch(&body);
        body.ends.push(end);
        Fragment {
            begin,
            ends: body.ends,
            is_nullable: true,
        }
    }

    fn compile(&mut self, node: &Regexp) -> Fragment {
        match node {
            Regexp::NoMatch => Fragment::default(),
            Regexp::Empty => self.add(Instruction::Nop(0)),
            Regexp::Literal(literal) => {
                let mut all = self.byte(false);
                for _ in 1..literal.bytes.len() {
                    let byte = self.byte(false);
                    all = self.cat(all, byte);
                }
                all
            }
            Regexp::Class(set) => self.class(*set),
            Regexp::AnyChar | Regexp::AnyByte => self.byte(ANY),
            Regexp::Look(_) => self.add(Instruction::Look(0)),
            Regexp::Capture(inner) => {
                let inner = self.compile(inner);
                if inner.begin == 0 {
                    return inner;
                }
                self.program.push(Instruction::Capture(inner.begin));
                let begin = self.program.len() - 1;
                let end = self.add(Instruction::Capture(0));
                self.patch(&inner.ends, end.begin);
                Fragment {
                    begin,
                    ends: end.ends,
                    is_nullable: inner.is_nullable,
                }
            }
            Regexp::Repeat(repeat) => {
                let body = self.compile(&repeat.node);
                match repeat.count {
                    Count::Star => self.star(body),
                    Count::Plus => self.plus(body),
                    Count::Quest => self.quest(body),
                    Count::Range(..) => body, // simplified before
                }
            }
            Regexp::Concat(parts) => self.all(parts, Self::cat),
            Regexp::Alternate(parts) => self.all(parts, Self::alt),
        }
    }

    fn all(
        &mut self,
        parts: &[Regexp],
        join: fn(&mut Self, Fragment, Fragment) -> Fragment,
    ) -> Fragment {
        // All parts first, as in RE2: the numbers of the instructions matter later.
        let mut fragments: Vec<Fragment> = parts.iter().map(|part| self.compile(part)).collect();
        let rest = fragments.split_off(1.min(fragments.len()));
        let first = fragments.pop().unwrap_or_default();
        rest.into_iter()
            .fold(first, |all, next| join(self, all, next))
    }

    /// One instruction for each range. If all letters are in the set in both cases, the upper case ones need none.
    fn class(&mut self, set: ByteSet) -> Fragment {
        let ignores_case = set == set.in_both_cases();
        let mut all = Fragment::default();
        for (first, last) in set.ranges() {
            if ignores_case && first.is_ascii_uppercase() && last.is_ascii_uppercase() {
                continue;
            }
            let byte = self.byte((first, last) == (0, u8::MAX));
            all = self.alt(all, byte);
        }
        all
    }
}
