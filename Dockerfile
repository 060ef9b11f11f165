# The image for manifests that were written for envoyproxy/envoy: the same paths, user, entry point and command.
#
#   docker build -t outrider .
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# What the build plays through itself to learn what is used most: see docs/performance.md.
RUN apt-get update \
 && apt-get install -y --no-install-recommends nghttp2-client nghttp2-server nginx-light python3 tzdata \
 && rustup component add llvm-tools
# Static, so that the image needs nothing else.
RUN RUSTFLAGS="-C target-feature=+crt-static" python3 conformance/bench/pgo.py \
 && mkdir -p /image/usr/local/bin /image/usr/share /image/etc/envoy /image/tmp /image/var/log \
 && cp target/pgo/outrider /image/usr/local/bin/envoy \
 && ln -s envoy /image/usr/local/bin/outrider \
 && ln -s usr/local/bin/envoy /image/docker-entrypoint.sh \
 && cp examples/direct_response/envoy.yaml /image/etc/envoy/envoy.yaml \
 && echo 'root:x:0:0:root:/:/sbin/nologin' > /image/etc/passwd \
 && echo 'envoy:x:101:101:envoy:/:/sbin/nologin' >> /image/etc/passwd \
 && echo 'root:x:0:' > /image/etc/group \
 && echo 'envoy:x:101:' >> /image/etc/group \
 && cp -r /etc/ssl /image/etc/ssl \
 && cp -r /usr/share/zoneinfo /image/usr/share/zoneinfo \
 && chmod 1777 /image/tmp /image/var/log

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/local/bin
USER 101:101
EXPOSE 10000
ENTRYPOINT ["/docker-entrypoint.sh"]
CMD ["envoy", "-c", "/etc/envoy/envoy.yaml"]
