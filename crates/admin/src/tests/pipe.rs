//! The admin server on a UNIX socket.

use super::*;

#[test]
fn a_pipe_can_be_served() {
    let directory = std::env::temp_dir().join(format!("outrider-admin-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("admin.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let address = Address::pipe(path.to_str().unwrap(), 0o600);
        // The second server finds the first one's socket file.
        for _ in 0..2 {
            let listener = AdminListener::bind(&address).await.unwrap();
            let server = tokio::task::spawn_local(serve(listener, Rc::new(admin(&Rc::default()))));
            let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
            let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("LIVE\n"), "{answer}");
            server.abort();
        }
    });
    std::fs::remove_dir_all(&directory).unwrap();
}
