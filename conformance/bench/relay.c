// What the kernel alone takes for a job: a relay between two TCP connections that copies bytes and knows no protocol.
// It is what any proxy has to do at least. usage: relay LISTEN_PORT BACKEND_PORT [poll]
// With `poll` it never sleeps, but looks again and again.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { DESCRIPTORS = 16384, EVENTS = 256, BUFFER = 64 * 1024, ENDED = -1 };

static int other_end[DESCRIPTORS];
static char buffer[BUFFER];

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void join(int poll, int one, int other) {
    int yes = 1;
    setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    other_end[one] = other;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = one};
    epoll_ctl(poll, EPOLL_CTL_ADD, one, &event);
}

// Passes on what there is; a short read tells that the socket is empty. Descriptors are not given back: it lives for one job.
static void pass_on(int from) {
    int to = other_end[from];
    if (to == ENDED) return;
    for (ssize_t count = BUFFER; count == BUFFER;) {
        count = recv(from, buffer, BUFFER, MSG_DONTWAIT);
        if (count == 0) {
            other_end[from] = other_end[to] = ENDED;
            shutdown(from, SHUT_RDWR);
            shutdown(to, SHUT_RDWR);
        }
        for (ssize_t sent = 0, more; sent < count; sent += more)
            if ((more = send(to, buffer + sent, count - sent, MSG_NOSIGNAL)) < 0) return;
    }
}

int main(int count, char **words) {
    if (count < 3) return 2;
    struct sockaddr_in here = loopback(words[1]), there = loopback(words[2]);
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) return 1;
    struct epoll_event accepting = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &accepting);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, count > 3 ? 0 : -1);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.fd != listener) {
                pass_on(events[at].data.fd);
                continue;
            }
            int client = accept(listener, 0, 0), backend = socket(AF_INET, SOCK_STREAM, 0);
            if (client < 0 || backend < 0 || client >= DESCRIPTORS || backend >= DESCRIPTORS) return 1;
            if (connect(backend, (void *)&there, sizeof there)) return 1;
            join(poll, client, backend);
            join(poll, backend, client);
        }
    }
}
