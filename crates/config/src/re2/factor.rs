//! Takes common starts out of the parts of an alternation, as RE2 does: `abc|abd` is `ab[cd]`.

use super::regexp::ByteSet;
use super::regexp::Count;
use super::regexp::Literal;
use super::regexp::Regexp;

/// The parts, with what they have in common taken out.
pub(super) fn factor(parts: Vec<Regexp>) -> Vec<Regexp> {
    merge_bytes(take_first_parts(take_literals(parts)))
}

/// Runs of parts that begin with the same bytes.
fn take_literals(parts: Vec<Regexp>) -> Vec<Regexp> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<Regexp> = Vec::new();
    let mut common = None::<Literal>;
    for part in parts {
        let start = leading_literal(&part).cloned();
        let shared = match (&common, &start) {
            (Some(a), Some(b)) if a.fold_case == b.fold_case => {
                let pairs = a.bytes.iter().zip(&b.bytes);
                pairs.take_while(|(a, b)| a == b).count()
            }
            _ => 0,
        };
        match &mut common {
            Some(common) if shared > 0 => common.bytes.truncate(shared),
            _ => {
                end_literal_run(&mut run, common.take(), &mut done);
                common = start;
            }
        }
        run.push(part);
    }
    end_literal_run(&mut run, common, &mut done);
    done
}

fn end_literal_run(run: &mut Vec<Regexp>, common: Option<Literal>, done: &mut Vec<Regexp>) {
    let run = std::mem::take(run);
    match common {
        Some(common) if run.len() > 1 => {
            let length = common.bytes.len();
            let rest = run.into_iter().map(|part| without_start(part, length));
            let rest = Regexp::alternate(factor(rest.collect()));
            done.push(Regexp::Concat(vec![Regexp::Literal(common), rest]));
        }
        _ => done.extend(run),
    }
}

fn leading_literal(node: &Regexp) -> Option<&Literal> {
    match node {
        Regexp::Concat(parts) => leading_literal(parts.first()?),
        Regexp::Literal(literal) => Some(literal),
        _ => None,
    }
}

/// `node` without the first `length` bytes of its leading literal.
fn without_start(node: Regexp, length: usize) -> Regexp {
    match node {
        Regexp::Literal(mut literal) => {
            literal.bytes.drain(..length.min(literal.bytes.len()));
            match literal.bytes.is_empty() {
                true => Regexp::Empty,
                false => Regexp::Literal(literal),
            }
        }
        Regexp::Concat(mut parts) => {
            let first = without_start(parts.remove(0), length);
            if first != Regexp::Empty {
                parts.insert(0, first);
            }
            Regexp::concat(parts)
        }
        other => other,
    }
}

/// Runs of parts whose first part is the same condition, class or fixed repetition of a byte.
fn take_first_parts(parts: Vec<Regexp>) -> Vec<Regexp> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<Regexp> = Vec::new();
    let mut common = None::<Regexp>;
    for part in parts {
        let first = first_part(&part).cloned();
        let continues = match (&common, &first) {
            (Some(a), Some(b)) => is_safe_to_take(a) && a.is_same(b),
            _ => false,
        };
        if !continues {
            end_run_of_first_parts(&mut run, common.take(), &mut done);
            common = first;
        }
        run.push(part);
    }
    end_run_of_first_parts(&mut run, common, &mut done);
    done
}

fn end_run_of_first_parts(run: &mut Vec<Regexp>, common: Option<Regexp>, done: &mut Vec<Regexp>) {
    let run = std::mem::take(run);
    match common {
        Some(common) if run.len() > 1 => {
            let rest = run.into_iter().map(without_first_part);
            let rest = Regexp::alternate(factor(rest.collect()));
            done.push(Regexp::Concat(vec![common, rest]));
        }
        _ => done.extend(run),
    }
}

fn first_part(node: &Regexp) -> Option<&Regexp> {
    match node {
        Regexp::Empty => None,
        Regexp::Concat(parts) => parts.first().filter(|first| **first != Regexp::Empty),
        other => Some(other),
    }
}

fn without_first_part(node: Regexp) -> Regexp {
    match node {
        Regexp::Concat(mut parts) => {
            parts.remove(0);
            Regexp::concat(parts)
        }
        _ => Regexp::Empty,
    }
}

/// Taking out parts with quantifiers could change what matches.
fn is_safe_to_take(node: &Regexp) -> bool {
    match node {
        Regexp::Look(_) | Regexp::Class(_) | Regexp::AnyChar | Regexp::AnyByte => true,
        Regexp::Repeat(repeat) => {
            let fixed = matches!(repeat.count, Count::Range(least, most) if most == Some(least));
            fixed && repeat.node.is_one_byte()
        }
        _ => false,
    }
}

/// Makes one class of each run of single bytes and classes.
fn merge_bytes(parts: Vec<Regexp>) -> Vec<Regexp> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<(Regexp, ByteSet)> = Vec::new();
    let end_run = |run: &mut Vec<(Regexp, ByteSet)>, done: &mut Vec<Regexp>| {
        if run.len() > 1 {
            let all = run
                .drain(..)
                .fold(ByteSet::default(), |all, (_, set)| all.and(set));
            done.push(Regexp::Class(all));
        } else {
            done.extend(run.drain(..).map(|(node, _)| node));
        }
    };
    for part in parts {
        let set = match &part {
            Regexp::Class(set) => Some(*set),
            Regexp::Literal(literal) => match literal.bytes[..] {
                [byte] if literal.fold_case => Some(ByteSet::range(byte, byte).in_both_cases()),
                [byte] => Some(ByteSet::range(byte, byte)),
                _ => None,
            },
            _ => None,
        };
        match set {
            Some(set) => run.push((part, set)),
            None => {
                end_run(&mut run, &mut done);
                done.push(part);
            }
        }
    }
    end_run(&mut run, &mut done);
    done
}
