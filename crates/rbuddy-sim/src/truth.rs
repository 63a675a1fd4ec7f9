//! What really is in a dataset. Servers and relay know ids and offsets; the simulator knows which writes these stand for, so that it can tell a right
//! decision from a lucky one.
//!
//! A *line* is one sequence of writes. It begins from nothing, or forks from a point of another line: a promoted replica, a primary that lost its last
//! writes. Two points hold the same data if they are the same after walking back over forks.

/// One sequence of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineId(usize);

/// A dataset: all writes of a line up to an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The line.
    pub line: LineId,
    /// Up to here.
    pub offset: u64,
}

#[derive(Debug, Clone)]
struct Line {
    fork_of: Option<Point>,
    keys: u64,
    is_foreign: bool,
}

/// All lines of a run.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    lines: Vec<Line>,
}

impl Truth {
    /// A line with so many keys, out of nothing. Foreign: somebody else's data, which nobody gave rbuddy.
    pub fn begin(&mut self, keys: u64, is_foreign: bool) -> LineId {
        self.lines.push(Line { fork_of: None, keys, is_foreign });
        LineId(self.lines.len() - 1)
    }

    /// A line that goes its own way from here on.
    pub fn fork(&mut self, of: Point) -> LineId {
        let keys = self.keys(of.line);
        self.lines.push(Line { fork_of: Some(of), keys, is_foreign: false });
        LineId(self.lines.len() - 1)
    }

    /// Keys of its datasets.
    pub fn keys(&self, line: LineId) -> u64 {
        self.lines[line.0].keys
    }

    /// Whether it was never the group's.
    pub fn is_foreign(&self, line: LineId) -> bool {
        self.lines[line.0].is_foreign
    }

    /// Whether both hold the same data.
    pub fn are_same(&self, one: Point, other: Point) -> bool {
        self.origin(one) == self.origin(other)
    }

    /// Whether `newer` has all writes of `older`, and maybe more.
    pub fn includes(&self, newer: Point, older: Point) -> bool {
        newer.offset >= older.offset && self.are_same(Point { offset: older.offset, ..newer }, older)
    }

    /// The same dataset on the line where its last write was made.
    pub fn origin(&self, mut point: Point) -> Point {
        while let Some(fork) = self.lines[point.line.0].fork_of.filter(|fork| point.offset <= fork.offset) {
            point.line = fork.line;
        }
        point
    }

    /// The line out of nothing that it goes back to. Later ones compare as greater.
    pub fn root(&self, mut line: LineId) -> LineId {
        while let Some(fork) = self.lines[line.0].fork_of {
            line = fork.line;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_share_what_was_before_them() {
        let mut truth = Truth::default();
        let line = truth.begin(10, false);
        let fork = truth.fork(Point { line, offset: 100 });
        let other = truth.begin(10, false);
        assert!(truth.are_same(Point { line, offset: 100 }, Point { line: fork, offset: 100 }));
        assert!(!truth.are_same(Point { line, offset: 101 }, Point { line: fork, offset: 101 }));
        assert!(truth.includes(Point { line: fork, offset: 150 }, Point { line, offset: 90 }));
        assert!(!truth.includes(Point { line: fork, offset: 150 }, Point { line, offset: 120 }));
        assert!(!truth.includes(Point { line: other, offset: 150 }, Point { line, offset: 90 }));
        assert_eq!(truth.root(fork), line);
    }
}
