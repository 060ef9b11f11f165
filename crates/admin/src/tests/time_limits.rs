//! The timeouts for clients that send nothing, or not the whole request.

use super::*;

/// Runs a server with a paused clock, and a client that sends `request` and reads nothing.
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

/// Waits until the server closes the connection, which takes no real time: the paused clock jumps to the next deadline.
async fn ends_after(mut stream: TcpStream, least: Duration) -> String {
    let started = tokio::time::Instant::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let took = started.elapsed();
    assert!(took >= least && took < 2 * least, "{took:?}: {answer}");
    answer
}

#[test]
fn idle_connections_are_closed_after_an_hour() {
    const HOUR: Duration = Duration::from_secs(3600);
    for request in ["", "GET /ready HTTP/1.1\r\nHost: x\r\nX:"] {
        with_stuck_client(request, async |stream| {
            assert_eq!(ends_after(stream, HOUR).await, "");
        });
    }
}

#[test]
fn an_incomplete_body_times_out() {
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
