//! placeholder
mod config;
fn main() {
    let _ = config::load(std::path::Path::new("x")).map(|l| (l.settings, l.remarks.is_empty(), config::template::TEMPLATE));
}
