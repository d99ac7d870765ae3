//! Code paths as a tree: from the thread's first function down to who touched memory, or from there up to the callers.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Nodes of one tree; what comes later is counted with its parent.
const NODES: usize = 50_000;
/// Branches with at least this share of the whole are open unless they were closed.
const OPEN_SHARE: u64 = 10;

/// One function within its callers (or callees).
#[derive(Clone, Debug)]
struct Node {
    name: Arc<str>,
    weight: u64,
    /// The part that has no child.
    own: u64,
    children: Vec<usize>,
    path: u64,
}

/// The paths of a stretch of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    roots: Vec<usize>,
    index: HashMap<(Option<usize>, Arc<str>), usize>,
    pub(super) total: u64,
}

/// A line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) depth: usize,
    /// Functions without a choice between them are one line.
    pub(super) names: Vec<Arc<str>>,
    pub(super) weight: u64,
    /// Identity of the last of them.
    pub(super) path: u64,
    /// `None` for a leaf.
    pub(super) open: Option<bool>,
}

impl Tree {
    /// Adds a path, outermost first, of this weight.
    pub(super) fn add<'a>(&mut self, path: impl IntoIterator<Item = &'a Arc<str>>, weight: u64) {
        if weight == 0 {
            return;
        }
        self.total = self.total.saturating_add(weight);
        let mut at: Option<usize> = None;
        for name in path {
            let Some(next) = self.child(at, name) else { break };
            if let Some(node) = self.nodes.get_mut(next) {
                node.weight = node.weight.saturating_add(weight);
            }
            at = Some(next);
        }
        if let Some(node) = at.and_then(|at| self.nodes.get_mut(at)) {
            node.own = node.own.saturating_add(weight);
        }
    }

    fn child(&mut self, parent: Option<usize>, name: &Arc<str>) -> Option<usize> {
        let key = (parent, Arc::clone(name));
        if let Some(&known) = self.index.get(&key) {
            return Some(known);
        }
        if self.nodes.len() >= NODES {
            return None;
        }
        let number = self.nodes.len();
        let mut hasher = DefaultHasher::new();
        parent.and_then(|parent| self.nodes.get(parent)).map_or(0, |node| node.path).hash(&mut hasher);
        name.hash(&mut hasher);
        self.nodes.push(Node {
            name: Arc::clone(name),
            weight: 0,
            own: 0,
            children: Vec::new(),
            path: hasher.finish(),
        });
        match parent.and_then(|parent| self.nodes.get_mut(parent)) {
            Some(parent) => parent.children.push(number),
            None => self.roots.push(number),
        }
        self.index.insert(key, number);
        Some(number)
    }

    /// The lines that are shown; `toggled` are the paths that were opened or closed by hand.
    pub(super) fn branches(&self, toggled: &BTreeSet<u64>) -> Vec<Branch> {
        let mut out = Vec::new();
        let mut stack: Vec<(usize, usize)> = self.by_weight(&self.roots).into_iter().map(|root| (root, 0)).collect();
        while let Some((at, depth)) = stack.pop() {
            let mut names = Vec::new();
            let mut last = &self.nodes[at];
            names.push(Arc::clone(&last.name));
            while let ([only], 0) = (last.children.as_slice(), last.own) {
                last = &self.nodes[*only];
                names.push(Arc::clone(&last.name));
            }
            let hot = u128::from(last.weight) * 100 >= u128::from(self.total) * u128::from(OPEN_SHARE);
            let open = (!last.children.is_empty()).then(|| hot != toggled.contains(&last.path));
            if open == Some(true) {
                stack.extend(self.by_weight(&last.children).into_iter().map(|child| (child, depth + 1)));
            }
            out.push(Branch { depth, names, weight: last.weight, path: last.path, open });
        }
        out
    }

    /// Smallest first, as a stack wants it.
    fn by_weight(&self, nodes: &[usize]) -> Vec<usize> {
        let mut nodes = nodes.to_vec();
        nodes.sort_by(|&a, &b| {
            let (a, b) = (&self.nodes[a], &self.nodes[b]);
            (a.weight, &b.name).cmp(&(b.weight, &a.name))
        });
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[(&str, u64)]) -> Tree {
        let mut tree = Tree::default();
        for (path, weight) in paths {
            let names: Vec<Arc<str>> = path.split(' ').map(Arc::from).collect();
            tree.add(&names, *weight);
        }
        tree
    }

    fn shown(tree: &Tree, toggled: &[u64]) -> Vec<String> {
        let branches = tree.branches(&toggled.iter().copied().collect());
        let line = |b: &Branch| format!("{}{} {}", "  ".repeat(b.depth), b.names.join(">"), b.weight);
        branches.iter().map(line).collect()
    }

    #[test]
    fn what_has_no_choice_is_one_line_and_the_heaviest_comes_first() {
        let tree = tree(&[("main run sort", 60), ("main run hash build", 30), ("main idle", 5), ("kernel", 5)]);
        assert_eq!(tree.total, 100);
        assert_eq!(
            shown(&tree, &[]),
            ["main 95", "  run 90", "    sort 60", "    hash>build 30", "  idle 5", "kernel 5"]
        );
    }

    #[test]
    fn a_function_that_has_a_part_of_its_own_ends_the_line() {
        let tree = tree(&[("main run", 1), ("main run sort", 9)]);
        assert_eq!(shown(&tree, &[]), ["main>run 10", "  sort 9"]);
    }

    #[test]
    fn cold_branches_are_closed_until_they_are_opened() {
        let tree = tree(&[("hot", 95), ("cold a", 3), ("cold b", 2)]);
        assert_eq!(shown(&tree, &[]), ["hot 95", "cold 5"]);
        let cold = tree.branches(&BTreeSet::new())[1].path;
        assert_eq!(shown(&tree, &[cold]), ["hot 95", "cold 5", "  a 3", "  b 2"]);
    }

    #[test]
    fn recursion_and_absurd_weights() {
        let tree = tree(&[("f f f", u64::MAX), ("f f", u64::MAX)]);
        assert_eq!(tree.branches(&BTreeSet::new()).len(), 2);
        assert_eq!(tree.total, u64::MAX);
    }
}
