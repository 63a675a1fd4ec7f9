//! Figures as the tables show them. One that could not be had is a dash.

use crate::args::MB;
use std::time::Duration;

pub(super) const NONE: &str = "–";

/// `1.234`
pub(super) fn seconds(figure: impl Into<Option<f64>>) -> String {
    figure.into().map_or_else(|| NONE.to_owned(), |seconds| format!("{seconds:.3}"))
}

/// `1.23`
pub(super) fn figure(figure: impl Into<Option<f64>>) -> String {
    figure.into().map_or_else(|| NONE.to_owned(), |figure| format!("{figure:.2}"))
}

/// `12.3`
pub(super) fn tenths(figure: impl Into<Option<f64>>) -> String {
    figure.into().map_or_else(|| NONE.to_owned(), |figure| format!("{figure:.1}"))
}

/// Millions of bytes.
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MB as f64
}

/// `12.3`, millions of bytes.
pub(super) fn mb(bytes: impl Into<Option<u64>>) -> String {
    tenths(bytes.into().map(megabytes))
}

/// `1 round`, `5 rounds`
pub(super) fn rounds(count: u16) -> String {
    if count == 1 { "1 round".to_owned() } else { format!("{count} rounds") }
}

pub(super) fn as_seconds(durations: impl IntoIterator<Item = Duration>) -> impl Iterator<Item = f64> {
    durations.into_iter().map(|duration| duration.as_secs_f64())
}
