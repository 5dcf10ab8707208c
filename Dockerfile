# One image for worker, migration, simulator and command line; the command chooses.
FROM ghcr.io/astral-sh/uv:0.13.7 AS uv

FROM python:3.11.14-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# Dependencies first: they change seldom, and their layer is kept when only our code changes.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra opentelemetry --extra aws --no-install-project
COPY . .
RUN uv sync --locked --no-dev --extra opentelemetry --extra aws --no-editable

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /app keyturn
COPY --from=build --chown=root:root /app/.venv /app/.venv
# The build that rotations are pinned to: docker build --build-arg KEYTURN_BUILD_ID=$(git rev-parse --short=12 HEAD)
ARG KEYTURN_BUILD_ID=
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 KEYTURN_LOG_FORMAT=json KEYTURN_BUILD_ID=$KEYTURN_BUILD_ID
WORKDIR /app
USER keyturn
# A worker lets its calls end after SIGTERM: give it the 30 s of its graceful shutdown (stop_grace_period, or the like).
STOPSIGNAL SIGTERM
ENTRYPOINT ["keyturn"]
CMD ["worker"]
