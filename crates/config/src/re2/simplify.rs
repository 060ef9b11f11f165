//! Rewrites counted repetitions as copies of what they repeat, as RE2 does before it compiles.

use super::regexp::Count;
use super::regexp::Flags;
use super::regexp::Literal;
use super::regexp::Regexp;
use super::regexp::Repeat;

/// `node` without counted repetitions.
pub(super) fn simplify(node: Regexp) -> Regexp {
    without_counts(coalesce(node))
}

/// Makes one repetition of neighbours that repeat the same byte: `a*a+` is `a{1,}`.
fn coalesce(node: Regexp) -> Regexp {
    match node {
        Regexp::Capture(node) => Regexp::Capture(Box::new(coalesce(*node))),
        Regexp::Repeat(mut repeat) => {
            repeat.node = coalesce(repeat.node);
            Regexp::Repeat(repeat)
        }
        Regexp::Alternate(parts) => Regexp::Alternate(parts.into_iter().map(coalesce).collect()),
        Regexp::Concat(parts) => {
            let mut parts: Vec<Regexp> = parts.into_iter().map(coalesce).collect();
            let mut has_changed = false;
            for at in 1..parts.len() {
                if let Some((first, second)) = coalesced(&parts[at - 1], &parts[at]) {
                    parts[at - 1] = first;
                    parts[at] = second;
                    has_changed = true;
                }
            }
            if has_changed {
                parts.retain(|part| *part != Regexp::Empty);
            }
            Regexp::Concat(parts)
        }
        other => other,
    }
}

/// Two neighbours in their merged form, if they can be merged.
fn coalesced(first: &Regexp, second: &Regexp) -> Option<(Regexp, Regexp)> {
    let Regexp::Repeat(repeat) = first else {
        return None;
    };
    if !repeat.node.is_one_byte() {
        return None;
    }
    let (least, most) = repeat.count.bounds();
    let with = |more_least: u32, more_most: Option<u32>| {
        let most = most.zip(more_most).map(|(a, b)| a + b);
        Regexp::Repeat(Box::new(Repeat {
            node: repeat.node.clone(),
            count: Count::Range(least + more_least, most),
            flags: repeat.flags,
        }))
    };
    match second {
        Regexp::Repeat(other)
            if other.node == repeat.node && other.flags.lazy == repeat.flags.lazy =>
        {
            let (more_least, more_most) = other.count.bounds();
            Some((Regexp::Empty, with(more_least, more_most)))
        }
        same if *same == repeat.node => Some((Regexp::Empty, with(1, Some(1)))),
        Regexp::Literal(literal) => {
            let Regexp::Literal(Literal { bytes, fold_case }) = &repeat.node else {
                return None;
            };
            let byte = bytes.first()?;
            let count = literal.bytes.iter().take_while(|b| *b == byte).count();
            if count == 0 || *fold_case != literal.fold_case {
                return None;
            }
            let more = count as u32;
            let repeat = with(more, Some(more));
            let rest = literal.bytes[count..].to_vec();
            Some(match rest.is_empty() {
                true => (Regexp::Empty, repeat),
                false => {
                    let fold_case = literal.fold_case;
                    let bytes = rest;
                    (repeat, Regexp::Literal(Literal { bytes, fold_case }))
                }
            })
        }
        _ => None,
    }
}

fn without_counts(node: Regexp) -> Regexp {
    match node {
        Regexp::Capture(node) => Regexp::Capture(Box::new(without_counts(*node))),
        Regexp::Concat(parts) => Regexp::Concat(parts.into_iter().map(without_counts).collect()),
        Regexp::Alternate(parts) => {
            Regexp::Alternate(parts.into_iter().map(without_counts).collect())
        }
        Regexp::Class(set) if set.ranges().is_empty() => Regexp::NoMatch,
        Regexp::Repeat(repeat) => {
            let Repeat { node, count, flags } = *repeat;
            let node = without_counts(node);
            match count {
                _ if node == Regexp::Empty => node,
                Count::Range(least, most) => copies(&node, least, most, flags),
                _ => match node {
                    Regexp::Repeat(inner) if inner.count == count && inner.flags == flags => {
                        Regexp::Repeat(inner)
                    }
                    node => Regexp::Repeat(Box::new(Repeat { node, count, flags })),
                },
            }
        }
        other => other,
    }
}

fn is_condition(node: &Regexp) -> bool {
    matches!(node, Regexp::Look(_))
}

/// `x{n,m}` is n copies of x, and then m - n nested copies of x?: `x{2,4}` is `xx(x(x)?)?`.
fn copies(node: &Regexp, mut least: u32, mut most: Option<u32>, flags: Flags) -> Regexp {
    let has_only_conditions = match node {
        Regexp::Concat(parts) | Regexp::Alternate(parts) => parts.iter().all(is_condition),
        node => is_condition(node),
    };
    if has_only_conditions {
        least = least.min(1);
        most = most.map(|most| most.min(1));
    }
    let copy = |count: u32| vec![node.clone(); count as usize];
    let Some(most) = most else {
        return match least {
            0 => Regexp::repeat(node.clone(), Count::Star, flags),
            _ => {
                let mut parts = copy(least - 1);
                parts.push(Regexp::repeat(node.clone(), Count::Plus, flags));
                Regexp::concat(parts)
            }
        };
    };
    if most <= least {
        return Regexp::concat(copy(least)); // x{0} matches the empty text
    }
    let mut rest = Regexp::repeat(node.clone(), Count::Quest, flags);
    for _ in least + 1..most {
        rest = Regexp::repeat(
            Regexp::Concat(vec![node.clone(), rest]),
            Count::Quest,
            flags,
        );
    }
    match least {
        0 => rest,
        _ => Regexp::Concat(vec![Regexp::concat(copy(least)), rest]),
    }
}
