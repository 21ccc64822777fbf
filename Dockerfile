# The broker alone: one binary, no shell, not root.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake gcc g++ libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --package veribus-broker --bin veribus \
    && mkdir /empty

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/veribus /usr/local/bin/veribus
COPY --from=build --chown=nonroot:nonroot /empty /var/lib/veribus
USER nonroot:nonroot
WORKDIR /var/lib/veribus
EXPOSE 7443 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/veribus"]
CMD ["serve", "--config", "/etc/veribus/veribus.toml"]
