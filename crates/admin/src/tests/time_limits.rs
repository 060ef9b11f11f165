//! Clients that send nothing, or not all: how long they are waited for.

use super::*;

/// A server under a paused clock, and a client that sends `request` and takes nothing.
fn with_stuck_client(request: &'static str, test: impl AsyncFnOnce(TcpStream)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let listener = AdminListener::bind(&any).await.unwrap();
        let address = listener.address().ip().unwrap();
        let admin = Rc::new(admin(&Rc::default()));
        let server = tokio::task::spawn_local(serve(listener, admin));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        test(stream).await;
        server.abort();
    });
}

/// The paused clock jumps to the next deadline, so that waiting for the end takes no time.
async fn ends_after(mut stream: TcpStream, least: Duration) -> String {
    let started = tokio::time::Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let took = started.elapsed();
    assert!(took >= least && took < 2 * least, "{took:?}: {answer}");
    answer
}

#[test]
fn clients_that_say_nothing_are_left_after_an_hour() {
    const HOUR: Duration = Duration::from_secs(3600);
    for request in ["", "GET /ready HTTP/1.1\r\nHost: x\r\nX:"] {
        with_stuck_client(request, async |stream| {
            assert_eq!(ends_after(stream, HOUR).await, "");
        });
    }
}

#[test]
fn a_body_that_stops_is_timed_out() {
    let request = "POST /reset_counters HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab";
    with_stuck_client(request, async |stream| {
        let answer = ends_after(stream, Duration::from_secs(300)).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nstream timeout"), "{answer}");
    });
}
