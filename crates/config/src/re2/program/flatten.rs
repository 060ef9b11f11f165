//! RE2's last step: lists of instructions without most `Alt`s and `Nop`s. The size is that of the lists.

use std::collections::BTreeSet;

use super::Instruction;

/// How many instructions are left of `program`, which starts at `start`, or at `unanchored` to search.
pub(super) fn size(mut program: Vec<Instruction>, start: usize, unanchored: usize) -> usize {
    skip_nops(&mut program, start);
    mark_loops_to_the_end(&mut program, start);
    let mut lists = Lists {
        roots: vec![0],
        is_root: vec![false; program.len()],
        predecessors: vec![Vec::new(); program.len()],
        program,
    };
    lists.is_root[0] = true;
    lists.add_root(unanchored);
    lists.add_root(start);
    lists.find_roots(unanchored);
    let found: BTreeSet<usize> = lists.roots.iter().copied().collect();
    for root in found.into_iter().skip(1).rev() {
        if root != unanchored && root != start {
            lists.find_dominated(root);
        }
    }
    let roots = lists.roots.clone();
    roots.into_iter().map(|root| lists.length(root)).sum()
}

/// The instructions that can be reached from `start`, in RE2's order.
fn reachable(program: &[Instruction], start: usize) -> Vec<usize> {
    let mut seen = vec![false; program.len()];
    let mut found = Vec::new();
    let mut add = |at: usize, found: &mut Vec<usize>| {
        if at != 0 && !std::mem::replace(&mut seen[at], true) {
            found.push(at);
        }
    };
    add(start, &mut found);
    let mut next = 0;
    while let Some(at) = found.get(next).copied() {
        let mut instruction = program[at];
        for out in [instruction.out().copied(), instruction.out1().copied()] {
            add(out.unwrap_or(0), &mut found);
        }
        next += 1;
    }
    found
}

fn skip_nops(program: &mut [Instruction], start: usize) {
    for at in reachable(program, start) {
        let mut instruction = program[at];
        let after_nops = |mut to: usize| {
            while let Instruction::Nop(out) = program[to]
                && to != 0
            {
                to = out;
            }
            to
        };
        if let Some(out) = instruction.out() {
            *out = after_nops(*out);
        }
        if let Some(out) = instruction.out1() {
            *out = after_nops(*out);
        }
        program[at] = instruction;
    }
}

/// Finds each `Alt` between a loop over all bytes and a match. In the lists, it takes one instruction more.
fn mark_loops_to_the_end(program: &mut [Instruction], start: usize) {
    for at in reachable(program, start) {
        let Instruction::Alt(out, out1) = program[at] else {
            continue;
        };
        let is_loop = |to: usize| program[to] == Instruction::Byte(super::ANY, at);
        let is_match = |mut to: usize| {
            while let Instruction::Capture(out) | Instruction::Nop(out) = program[to] {
                to = out;
            }
            program[to] == Instruction::Match
        };
        if is_loop(out) && is_match(out1) || is_match(out) && is_loop(out1) {
            program[at] = Instruction::AltMatch(out, out1);
        }
    }
}

struct Lists {
    program: Vec<Instruction>,
    /// Where lists start, in the order of their discovery.
    roots: Vec<usize>,
    is_root: Vec<bool>,
    /// The `Alt`s that lead to each instruction.
    predecessors: Vec<Vec<usize>>,
}

impl Lists {
    fn add_root(&mut self, at: usize) {
        if !std::mem::replace(&mut self.is_root[at], true) {
            self.roots.push(at);
        }
    }

    /// What follows a byte, a capture or a condition starts a list.
    fn find_roots(&mut self, start: usize) {
        let mut seen = vec![false; self.program.len()];
        let mut stack = vec![start];
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match self.program[at] {
                Instruction::Alt(out, out1) | Instruction::AltMatch(out, out1) => {
                    self.predecessors[out].push(at);
                    self.predecessors[out1].push(at);
                    stack.push(out1);
                    stack.push(out);
                }
                Instruction::Byte(_, out) | Instruction::Capture(out) | Instruction::Look(out) => {
                    self.add_root(out);
                    stack.push(out);
                }
                Instruction::Nop(out) => stack.push(out),
                Instruction::Match | Instruction::Fail => {}
            }
        }
    }

    /// What is reached from `root` without a byte and from elsewhere too starts a list of its own.
    fn find_dominated(&mut self, root: usize) {
        let mut seen = vec![false; self.program.len()];
        let mut order = Vec::new();
        let mut stack = vec![root];
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            order.push(at);
            if at != root && self.is_root[at] {
                continue;
            }
            match self.program[at] {
                Instruction::Alt(out, out1) | Instruction::AltMatch(out, out1) => {
                    stack.push(out1);
                    stack.push(out);
                }
                Instruction::Nop(out) => stack.push(out),
                _ => {}
            }
        }
        for at in order {
            if self.predecessors[at].iter().any(|before| !seen[*before]) {
                self.add_root(at);
            }
        }
    }

    /// The length of the list that starts at `root`.
    fn length(&self, root: usize) -> usize {
        let mut seen = vec![false; self.program.len()];
        let mut length = 0;
        let mut stack = vec![root];
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            if at != root && self.is_root[at] {
                length += 1; // a jump to the other list
                continue;
            }
            match self.program[at] {
                Instruction::AltMatch(out, out1) => {
                    length += 1;
                    stack.push(out1);
                    stack.push(out);
                }
                Instruction::Alt(out, out1) => {
                    stack.push(out1);
                    stack.push(out);
                }
                Instruction::Nop(out) => stack.push(out),
                _ => length += 1,
            }
        }
        length
    }
}
