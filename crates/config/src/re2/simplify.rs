//! Rewrites counted repetitions as copies of what they repeat, as RE2 does before it compiles.

use super::node::Count;
use super::node::Flags;
use super::node::Literal;
use super::node::Node;
use super::node::Repeat;

/// `node` without counted repetitions.
pub(super) fn simplify(node: Node) -> Node {
    without_counts(coalesce(node))
}

/// Makes one repetition of neighbours that repeat the same byte: `a*a+` is `a{1,}`.
fn coalesce(node: Node) -> Node {
    match node {
        Node::Capture(node) => Node::Capture(Box::new(coalesce(*node))),
        Node::Repeat(mut repeat) => {
            repeat.node = coalesce(repeat.node);
            Node::Repeat(repeat)
        }
        Node::Alternate(parts) => Node::Alternate(parts.into_iter().map(coalesce).collect()),
        Node::Concat(parts) => {
            let mut parts: Vec<Node> = parts.into_iter().map(coalesce).collect();
            let mut has_changed = false;
            for at in 1..parts.len() {
                if let Some((first, second)) = coalesced(&parts[at - 1], &parts[at]) {
                    parts[at - 1] = first;
                    parts[at] = second;
                    has_changed = true;
                }
            }
            if has_changed {
                parts.retain(|part| *part != Node::Empty);
            }
            Node::Concat(parts)
        }
        other => other,
    }
}

/// What two neighbours become, if they can be made one.
fn coalesced(first: &Node, second: &Node) -> Option<(Node, Node)> {
    let Node::Repeat(repeat) = first else {
        return None;
    };
    if !repeat.node.is_one_byte() {
        return None;
    }
    let (least, most) = repeat.count.bounds();
    let with = |more_least: u32, more_most: Option<u32>| {
        let most = most.zip(more_most).map(|(a, b)| a + b);
        Node::Repeat(Box::new(Repeat {
            node: repeat.node.clone(),
            count: Count::Range(least + more_least, most),
            flags: repeat.flags,
        }))
    };
    match second {
        Node::Repeat(other)
            if other.node == repeat.node && other.flags.lazy == repeat.flags.lazy =>
        {
            let (more_least, more_most) = other.count.bounds();
            Some((Node::Empty, with(more_least, more_most)))
        }
        same if *same == repeat.node => Some((Node::Empty, with(1, Some(1)))),
        Node::Literal(literal) => {
            let Node::Literal(Literal { bytes, fold_case }) = &repeat.node else {
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
                true => (Node::Empty, repeat),
                false => {
                    let fold_case = literal.fold_case;
                    let bytes = rest;
                    (repeat, Node::Literal(Literal { bytes, fold_case }))
                }
            })
        }
        _ => None,
    }
}

fn without_counts(node: Node) -> Node {
    match node {
        Node::Capture(node) => Node::Capture(Box::new(without_counts(*node))),
        Node::Concat(parts) => Node::Concat(parts.into_iter().map(without_counts).collect()),
        Node::Alternate(parts) => Node::Alternate(parts.into_iter().map(without_counts).collect()),
        Node::Class(set) if set.ranges().is_empty() => Node::NoMatch,
        Node::Repeat(repeat) => {
            let Repeat { node, count, flags } = *repeat;
            let node = without_counts(node);
            match count {
                _ if node == Node::Empty => node,
                Count::Range(least, most) => copies(&node, least, most, flags),
                _ => match node {
                    Node::Repeat(inner) if inner.count == count && inner.flags == flags => {
                        Node::Repeat(inner)
                    }
                    node => Node::Repeat(Box::new(Repeat { node, count, flags })),
                },
            }
        }
        other => other,
    }
}

fn is_condition(node: &Node) -> bool {
    matches!(node, Node::Look(_))
}

/// `x{n,m}` is n copies of x, and then m - n nested copies of x?: `x{2,4}` is `xx(x(x)?)?`.
fn copies(node: &Node, mut least: u32, mut most: Option<u32>, flags: Flags) -> Node {
    let has_only_conditions = match node {
        Node::Concat(parts) | Node::Alternate(parts) => parts.iter().all(is_condition),
        node => is_condition(node),
    };
    if has_only_conditions {
        least = least.min(1);
        most = most.map(|most| most.min(1));
    }
    let copy = |count: u32| vec![node.clone(); count as usize];
    let Some(most) = most else {
        return match least {
            0 => Node::repeat(node.clone(), Count::Star, flags),
            _ => {
                let mut parts = copy(least - 1);
                parts.push(Node::repeat(node.clone(), Count::Plus, flags));
                Node::concat(parts)
            }
        };
    };
    if most <= least {
        return Node::concat(copy(least)); // x{0} matches the empty text
    }
    let mut rest = Node::repeat(node.clone(), Count::Quest, flags);
    for _ in least + 1..most {
        rest = Node::repeat(Node::Concat(vec![node.clone(), rest]), Count::Quest, flags);
    }
    match least {
        0 => rest,
        _ => Node::Concat(vec![Node::concat(copy(least)), rest]),
    }
}
