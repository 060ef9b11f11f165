//! Takes common starts out of the parts of an alternation, as RE2 does: `abc|abd` is `ab[cd]`.

use super::node::ByteSet;
use super::node::Count;
use super::node::Literal;
use super::node::Node;

/// The parts, with what they have in common taken out.
pub(super) fn factor(parts: Vec<Node>) -> Vec<Node> {
    merge_bytes(take_first_parts(take_literals(parts)))
}

/// Runs of parts that begin with the same bytes.
fn take_literals(parts: Vec<Node>) -> Vec<Node> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<Node> = Vec::new();
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

fn end_literal_run(run: &mut Vec<Node>, common: Option<Literal>, done: &mut Vec<Node>) {
    let run = std::mem::take(run);
    match common {
        Some(common) if run.len() > 1 => {
            let length = common.bytes.len();
            let rest = run.into_iter().map(|part| without_start(part, length));
            let rest = Node::alternate(factor(rest.collect()));
            done.push(Node::Concat(vec![Node::Literal(common), rest]));
        }
        _ => done.extend(run),
    }
}

fn leading_literal(node: &Node) -> Option<&Literal> {
    match node {
        Node::Concat(parts) => leading_literal(parts.first()?),
        Node::Literal(literal) => Some(literal),
        _ => None,
    }
}

/// `node` without the first `length` bytes of its leading literal.
fn without_start(node: Node, length: usize) -> Node {
    match node {
        Node::Literal(mut literal) => {
            literal.bytes.drain(..length.min(literal.bytes.len()));
            match literal.bytes.is_empty() {
                true => Node::Empty,
                false => Node::Literal(literal),
            }
        }
        Node::Concat(mut parts) => {
            let first = without_start(parts.remove(0), length);
            if first != Node::Empty {
                parts.insert(0, first);
            }
            Node::concat(parts)
        }
        other => other,
    }
}

/// Runs of parts whose first part is the same condition, class or fixed repetition of a byte.
fn take_first_parts(parts: Vec<Node>) -> Vec<Node> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<Node> = Vec::new();
    let mut common = None::<Node>;
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

fn end_run_of_first_parts(run: &mut Vec<Node>, common: Option<Node>, done: &mut Vec<Node>) {
    let run = std::mem::take(run);
    match common {
        Some(common) if run.len() > 1 => {
            let rest = run.into_iter().map(without_first_part);
            let rest = Node::alternate(factor(rest.collect()));
            done.push(Node::Concat(vec![common, rest]));
        }
        _ => done.extend(run),
    }
}

fn first_part(node: &Node) -> Option<&Node> {
    match node {
        Node::Empty => None,
        Node::Concat(parts) => parts.first().filter(|first| **first != Node::Empty),
        other => Some(other),
    }
}

fn without_first_part(node: Node) -> Node {
    match node {
        Node::Concat(mut parts) => {
            parts.remove(0);
            Node::concat(parts)
        }
        _ => Node::Empty,
    }
}

/// Taking out parts with quantifiers could change what matches.
fn is_safe_to_take(node: &Node) -> bool {
    match node {
        Node::Look(_) | Node::Class(_) | Node::AnyChar | Node::AnyByte => true,
        Node::Repeat(repeat) => {
            let fixed = matches!(repeat.count, Count::Range(least, most) if most == Some(least));
            fixed && repeat.node.is_one_byte()
        }
        _ => false,
    }
}

/// Makes one class of each run of single bytes and classes.
fn merge_bytes(parts: Vec<Node>) -> Vec<Node> {
    let mut done = Vec::with_capacity(parts.len());
    let mut run: Vec<(Node, ByteSet)> = Vec::new();
    let end_run = |run: &mut Vec<(Node, ByteSet)>, done: &mut Vec<Node>| {
        if run.len() > 1 {
            let all = run
                .drain(..)
                .fold(ByteSet::default(), |all, (_, set)| all.and(set));
            done.push(Node::Class(all));
        } else {
            done.extend(run.drain(..).map(|(node, _)| node));
        }
    };
    for part in parts {
        let set = match &part {
            Node::Class(set) => Some(*set),
            Node::Literal(literal) => match literal.bytes[..] {
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
