//! The laboratory's own pieces on one real server: if these lie, no other test can be believed.

use rbuddy_lab::dataset::key;
use rbuddy_lab::resp::Value;
use rbuddy_lab::server::make_rdb;
use rbuddy_lab::{Binary, Data, Dataset, Readers, ReadersOptions, Server, ServerOptions, Source, Writer, WriterOptions, wait_until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

async fn server(folder: &tempfile::TempDir, name: &str) -> Server {
    let binary = Binary::find().expect("a server binary");
    Server::start(&binary, folder.path().join(name), ServerOptions::default()).await.expect("a server")
}

async fn readers(server: &Server, keys: u64) -> Readers {
    let options = ReadersOptions { connections: 20, reads_per_second: 2000, keys };
    Readers::start(Source::Fixed(server.address()), options).await.expect("readers")
}

async fn reads(readers: &Readers, count: u64) {
    let from = readers.tally().ok;
    let enough = wait_until("reads", SOON, async || {
        let now = readers.tally();
        if now.ok >= from + count { Ok(()) } else { Err(now.to_string()) }
    });
    enough.await.expect("the readers read");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_server_gives_a_clean_tally_at_the_wanted_rate() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(&folder, "one").await;
    Dataset::of(5000).load(&server).await.expect("load");
    assert_eq!(server.keys().await.expect("dbsize"), 5000);
    let readers = readers(&server, 5000).await;
    reads(&readers, 4000).await;
    let tally = readers.stop().await;
    assert!(tally.is_clean(), "{tally}");
    assert!(tally.longest_gap < Duration::from_millis(500), "{tally}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_trouble_is_counted_as_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = server(&folder, "one").await;
    let data = Dataset::of(100);
    data.newer().load(&server).await.expect("load");
    let readers = readers(&server, 100).await;
    reads(&readers, 100).await;
    // An older dataset on a connection that has read the newer one.
    data.load(&server).await.expect("load");
    let seen = wait_until("wrong reads", SOON, async || if readers.tally().wrong > 0 { Ok(()) } else { Err("none".to_owned()) });
    seen.await.expect("a dataset that goes back is wrong");
    server.command(&["FLUSHALL"]).await.expect("flush");
    let seen = wait_until("nils", SOON, async || if readers.tally().nil > 0 { Ok(()) } else { Err("none".to_owned()) });
    seen.await.expect("an empty dataset is nil");
    assert_eq!(readers.take().failed, 0);
    server.kill().await.expect("kill");
    let seen = wait_until("failures", SOON, async || if readers.tally().failed > 20 { Ok(()) } else { Err("none".to_owned()) });
    seen.await.expect("a dead server fails every read");
    server.restart(Data::Nothing).await.expect("restart");
    server.ready(SOON).await.expect("ready");
    data.load(&server).await.expect("load");
    reads(&readers, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_server_answers_nothing_and_goes_on_when_thawed() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(&folder, "one").await;
    Dataset::of(100).load(&server).await.expect("load");
    let readers = readers(&server, 100).await;
    reads(&readers, 100).await;
    server.freeze().await.expect("freeze");
    let seen = wait_until("a gap", SOON, async || {
        let gap = readers.tally().longest_gap;
        if gap > Duration::from_secs(1) { Ok(()) } else { Err(format!("{gap:?}")) }
    });
    seen.await.expect("nothing is answered");
    server.thaw().await.expect("thaw");
    reads(&readers, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_that_comes_back_with_another_rdb_has_another_history_and_the_new_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = server(&folder, "one").await;
    let data = Dataset::of(2000);
    data.load(&server).await.expect("load");
    let before = server.info("replication").await.expect("info");
    let rdb = make_rdb(server.binary(), &folder.path().join("maker"), &data.newer()).await.expect("an RDB");
    server.restart(Data::Rdb(&rdb)).await.expect("restart");
    server.ready(SOON).await.expect("ready");
    let after = server.info("replication").await.expect("info");
    assert_ne!(before["master_replid"], after["master_replid"]);
    assert_ne!(before["master_replid"], after["master_replid2"]);
    let value = server.command(&["GET", &key(7)]).await.expect("get");
    assert_eq!(value, Value::Bulk(data.newer().value(7).into_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_writer_writes_nothing_more_and_replicas_become_equal() {
    let folder = tempfile::tempdir().expect("a folder");
    let primary = server(&folder, "primary").await;
    let binary = primary.binary().clone();
    let follows = ServerOptions::default().with("replicaof", format!("127.0.0.1 {}", primary.port()));
    let replica = Server::start(&binary, folder.path().join("replica"), follows).await.expect("a replica");
    let mut writer = Writer::start(primary.address(), WriterOptions { writes_per_second: 1000, value_bytes: 100 });
    let enough = wait_until("writes", SOON, async || {
        let written = writer.written();
        if written > 500 { Ok(()) } else { Err(written.to_string()) }
    });
    enough.await.expect("it writes");
    writer.pause().await;
    let digest = primary.digest().await.expect("digest");
    let equal = wait_until("equal digests", SOON, async || {
        let found = replica.digest().await.map_err(|error| error.to_string())?;
        if found == digest { Ok(()) } else { Err(found) }
    });
    equal.await.expect("the replica follows");
    assert_eq!(primary.digest().await.expect("digest"), digest, "a paused writer writes nothing");
    assert_eq!(primary.full_resyncs().await.expect("info"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_writes_are_no_errors_and_of_every_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(&folder, "one").await;
    let mut writer = Writer::start_mixed(server.address(), 2000, 1);
    let kinds = ["string", "number", "list", "set", "hash", "zset", "stream"];
    let all = wait_until("keys of every type", SOON, async || {
        for kind in kinds {
            let keys = server.command(&["KEYS", &format!("mixed:{kind}:*")]).await.map_err(|error| error.to_string())?;
            if matches!(keys, Value::Array(keys) if keys.is_empty()) {
                return Err(format!("no {kind}"));
            }
        }
        Ok(())
    });
    all.await.expect("it writes");
    writer.pause().await;
    let stats = server.info("errorstats").await.expect("info");
    assert!(stats.is_empty(), "writes were refused: {stats:?}");
}
