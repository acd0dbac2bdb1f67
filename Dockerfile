# syntax=docker/dockerfile:1
# docker build -t isthmus .
# docker run -p 5672:5672 -p 1883:1883 -p 61613:61613 -p 127.0.0.1:15672:15672 -v isthmus:/var/lib/isthmus isthmus
FROM rust:1-slim-trixie AS build
# The compiler and cmake are for the libraries of cryptography and allocation.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential ca-certificates cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package isthmus \
 && mkdir /data

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="Isthmus" \
      org.opencontainers.image.source="https://github.com/isthmus-mq/isthmus" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=build /src/target/release/isthmus /usr/bin/isthmus
COPY --from=build /src/config/production.toml /etc/isthmus/isthmus.toml
# The authorities that providers of keys and directories are trusted by, which slim images lack.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Made here, so that a new volume gets this owner and mode.
COPY --from=build --chown=10001:10001 --chmod=0700 /data /var/lib/isthmus
USER 10001:10001
# Published ports arrive at the container's own address. Guest may log in from within the container
# only: make users of your own from there.
ENV ISTHMUS__LISTENERS__AMQP=0.0.0.0:5672 \
    ISTHMUS__LISTENERS__MQTT=0.0.0.0:1883 \
    ISTHMUS__LISTENERS__STOMP=0.0.0.0:61613 \
    ISTHMUS__LISTENERS__HTTP=0.0.0.0:15672
EXPOSE 5672 5671 1883 8883 61613 61614 15672 15671
VOLUME /var/lib/isthmus
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/isthmus"]
CMD ["serve", "--config", "/etc/isthmus/isthmus.toml"]
