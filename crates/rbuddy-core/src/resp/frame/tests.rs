use super::*;
use crate::resp::encode;
use proptest::prelude::*;

/// Frames `input` cut into pieces of `piece` bytes; the end and kind of every frame.
fn reply_ends(input: &[u8], piece: usize) -> Result<Vec<(usize, ReplyKind)>, ProtocolError> {
    let mut framer = ReplyFramer::default();
    let mut ends = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let fed = framer.feed(&input[at..input.len().min(at + piece)])?;
        assert!(fed.used > 0, "no progress at {at}");
        at += fed.used;
        if let Some(kind) = fed.ended {
            assert!(framer.is_between());
            ends.push((at, kind));
        }
    }
    Ok(ends)
}

fn request_ends(input: &[u8], piece: usize) -> Result<Vec<usize>, ProtocolError> {
    let mut framer = RequestFramer::default();
    let mut ends = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let fed = framer.feed(&input[at..input.len().min(at + piece)])?;
        assert!(fed.used > 0, "no progress at {at}");
        at += fed.used;
        if fed.ended.is_some() {
            ends.push(at);
        }
    }
    Ok(ends)
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(32u8..=255, 0..20)
}

/// One element without attributes, of any type and nesting.
fn element() -> impl Strategy<Value = Vec<u8>> {
    let framed = |prefix: u8, body: Vec<u8>| [&[prefix][..], &body, b"\r\n"].concat();
    let leaf = prop_oneof![
        (proptest::sample::select(b"+-:,(".to_vec()), line()).prop_map(move |(prefix, body)| framed(prefix, body)),
        Just(b"_\r\n".to_vec()),
        Just(b"#t\r\n".to_vec()),
        Just(b"$-1\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        (proptest::sample::select(b"$!=".to_vec()), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(prefix, body)| [
            format!("{}{}\r\n", char::from(prefix), body.len()).as_bytes(),
            &body,
            b"\r\n"
        ]
        .concat()),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            (proptest::sample::select(b"*~".to_vec()), proptest::collection::vec(inner.clone(), 0..5)).prop_map(|(prefix, items)| [
                format!("{}{}\r\n", char::from(prefix), items.len()).into_bytes(),
                items.concat()
            ]
            .concat()),
            proptest::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(|pairs| {
                let items: Vec<u8> = pairs.iter().flat_map(|(key, value)| [key.as_slice(), value].concat()).collect();
                [format!("%{}\r\n", pairs.len()).into_bytes(), items].concat()
            }),
            (proptest::collection::vec((inner.clone(), inner.clone()), 0..3), inner).prop_map(|(pairs, described)| {
                let items: Vec<u8> = pairs.iter().flat_map(|(key, value)| [key.as_slice(), value].concat()).collect();
                [format!("|{}\r\n", pairs.len()).into_bytes(), items, described].concat()
            }),
        ]
    })
}

fn frame() -> impl Strategy<Value = (Vec<u8>, bool)> {
    prop_oneof![
        4 => element().prop_map(|bytes| (bytes, false)),
        1 => proptest::collection::vec(element(), 0..4)
            .prop_map(|items| ([format!(">{}\r\n", items.len()).into_bytes(), items.concat()].concat(), true)),
    ]
}

proptest! {
    #[test]
    fn replies_end_where_they_end_however_they_are_cut(frames in proptest::collection::vec(frame(), 1..6), piece in 1usize..50) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut end = 0;
        let expected: Vec<(usize, bool)> = frames.iter().map(|(bytes, push)| { end += bytes.len(); (end, *push) }).collect();
        for piece in [1, piece, bytes.len()] {
            let found = reply_ends(&bytes, piece).expect("sound");
            let found: Vec<(usize, bool)> = found.into_iter().map(|(end, kind)| (end, kind == ReplyKind::Push)).collect();
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn requests_end_where_they_end_however_they_are_cut(
        requests in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6), 1..6),
        piece in 1usize..50,
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for request in &requests {
            bytes.extend(encode::request(request));
            expected.push(bytes.len());
            bytes.extend_from_slice(b"PING inline\r\n");
            expected.push(bytes.len());
        }
        for piece in [1, piece, bytes.len()] {
            prop_assert_eq!(&request_ends(&bytes, piece).expect("sound"), &expected);
        }
    }

    #[test]
    fn no_bytes_make_a_framer_panic_or_stand_still(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..20) {
        let _ = reply_ends(&bytes, piece);
        let _ = request_ends(&bytes, piece);
        let _ = request_head(&bytes);
        let mut array = b"*3\r\n".to_vec();
        array.extend_from_slice(&bytes);
        let _ = request_head(&array);
    }
}

#[test]
fn the_kind_is_that_of_the_element_behind_the_attribute() {
    assert_eq!(reply_ends(b"|1\r\n+ttl\r\n:3\r\n-ERR\r\n", 1), Ok(vec![(20, ReplyKind::Error)]));
    assert_eq!(reply_ends(b"*1\r\n-ERR\r\n", 1), Ok(vec![(10, ReplyKind::Reply)]), "an error inside a reply is not one");
    assert_eq!(reply_ends(b"!3\r\nERR\r\n", 1), Ok(vec![(9, ReplyKind::Error)]));
}

#[test]
fn what_a_server_might_read_otherwise_is_refused() {
    for input in [
        &b"*+1\r\n$4\r\nPING\r\n"[..],
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*1\rX",
        b"*1\r\n$ 4\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGXY",
        b"*1\r\n$-1\r\n",
        b"*1\r\n:4\r\n",
        b"*9999999999\r\n",
        b"*9999999999999999999999",
        b"*\r\n",
        b"*-\r\n",
    ] {
        assert!(request_ends(input, 1).is_err(), "{:?} was taken", String::from_utf8_lossy(input));
    }
    for input in [&b"?\r\n"[..], b"*?\r\n", b"$?\r\n", b"$-2\r\n", b"$3\r\nabcde", b"|-1\r\n"] {
        assert!(reply_ends(input, 1).is_err(), "{:?} was taken", String::from_utf8_lossy(input));
    }
    let deep = b"*999999999999999999\r\n".repeat(20);
    assert!(reply_ends(&deep, 7).is_err(), "the count of missing elements is bounded");
}

#[test]
fn a_head_is_known_as_soon_as_the_name_is_there() {
    let request = encode::request(&["CLIENT", "SETNAME", "x"]);
    let known = request.iter().position(|b| *b == b'T').expect("the name's last letter") + 1;
    for length in 0..known {
        assert_eq!(request_head(&request[..length]), Ok(None), "{length} bytes");
    }
    let Ok(Some(RequestHead::Array { arguments: 3, name: b"CLIENT", next })) = request_head(&request[..known]) else {
        panic!("the name is there");
    };
    assert_eq!(argument_at(&request, next).expect("sound").expect("there").0, b"SETNAME");
    assert_eq!(argument_at(&request[..next + 5], next), Ok(None));
}

#[test]
fn empty_requests_are_seen_as_such() {
    assert_eq!(request_head(b"*0\r\n"), Ok(Some(RequestHead::Empty { bytes: 4 })));
    assert_eq!(request_head(b"*-1\r\nPING"), Ok(Some(RequestHead::Empty { bytes: 5 })));
    assert_eq!(request_head(b" \r\nPING"), Ok(Some(RequestHead::Empty { bytes: 3 })));
    assert_eq!(request_head(b"PING a\r\nX"), Ok(Some(RequestHead::Inline { line: b"PING a\r\n" })));
    assert!(request_head(&[b'a'; INLINE_BYTES_MAX]).is_err());
}

#[test]
fn a_name_that_is_too_long_is_no_name() {
    let request = encode::request(&[&[b'x'; 65][..], b"1"]);
    assert!(matches!(request_head(&request), Ok(Some(RequestHead::Array { name: b"", .. }))));
}
