# One image for the code location, the webserver, the daemon, every run on ECS and the stream's services: they differ by
# command. compose.yaml and infra say how each is started. Built by `make image`.

# By version and by digest: a tag moves with each rebuild of Debian under it. A newer one is --build-arg PYTHON=...
ARG PYTHON=python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

FROM ${PYTHON} AS build
WORKDIR /build
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
COPY deploy/locks/build.lock deploy/locks/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r deploy/locks/build.lock
COPY deploy/locks/app.lock deploy/locks/
# Wheels only: no package's own code runs while it is installed. With bytecode, as nothing can be written later.
RUN uv venv --python /usr/local/bin/python /opt/crypto_assets \
  && uv pip install --python /opt/crypto_assets --require-hashes --only-binary :all: --compile-bytecode \
    -r deploy/locks/app.lock
COPY LICENSE README.md pyproject.toml dagster.yaml workspace.yaml ./
COPY crypto_assets crypto_assets
COPY deploy/instance deploy/instance
RUN hatchling build --target wheel --directory dist \
  && uv pip install --python /opt/crypto_assets --no-deps --compile-bytecode dist/*.whl \
  && mkdir -p /opt/dagster/compose /opt/dagster/ecs \
  && cp deploy/instance/workspace.yaml /opt/dagster/ \
  && cat dagster.yaml deploy/instance/containers.yaml > /opt/dagster/compose/dagster.yaml \
  && cat /opt/dagster/compose/dagster.yaml deploy/instance/ecs.yaml > /opt/dagster/ecs/dagster.yaml

FROM build AS build-store
COPY deploy/locks/store.lock deploy/locks/
RUN uv venv --python /usr/local/bin/python /opt/store \
  && uv pip install --python /opt/store --require-hashes --only-binary :all: -r deploy/locks/store.lock

# What both images start from: no installer, no root, nothing to write but /tmp and /state.
FROM ${PYTHON} AS runtime
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
  && groupadd --gid 10001 crypto \
  && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin crypto \
  && install -d -o 10001 -g 10001 -m 0750 /state
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Fargate gives an empty volume the owner and mode that the image declares here.
VOLUME ["/tmp", "/state"]
USER 10001:10001

# The S3 server of compose.yaml; on AWS there is S3.
FROM runtime AS store
COPY --from=build-store /opt/store/bin/weed /usr/local/bin/weed
# Measured: 785 MB without these, 230 to 370 MB with them.
ENV GOMEMLIMIT=400MiB GOGC=50
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=4 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8333/healthz', timeout=4)"]
CMD ["weed", "version"]

FROM runtime AS app
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="crypto-assets" \
  org.opencontainers.image.description="A crypto market lakehouse: Dagster assets, Delta tables on S3" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/crypto_assets /opt/crypto_assets
COPY --from=build /opt/dagster /opt/dagster
ENV PATH=/opt/crypto_assets/bin:${PATH} \
  CRYPTO_ASSETS_STATE_DIR=/state \
  DAGSTER_DISABLE_TELEMETRY=1 \
  DAGSTER_HOME=/opt/dagster/compose
WORKDIR /opt/dagster
EXPOSE 4000
# Of the command below; what runs another command brings a check of its own, and ECS reads only those.
HEALTHCHECK --interval=60s --timeout=20s --start-period=90s --retries=3 \
  CMD ["dagster", "api", "grpc-health-check", "-p", "4000"]
CMD ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", "4000", "-m", "crypto_assets.definitions", "-a", "defs"]
