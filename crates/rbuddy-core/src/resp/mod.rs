//! RESP: framing by length headers, request parsing, encoding. No values are decoded beyond what framing needs.
//!
//! | where | what |
//! | --- | --- |
//! | [`request`] | one request, RESP array or inline, as its arguments |
//! | [`frame`] | where requests and replies end, a piece at a time and without building values |
//! | [`encode`] | building requests and replies |

pub mod encode;
pub mod frame;
pub mod request;
