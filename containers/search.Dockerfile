# Search, analysis, data: no torch.
# From the repository's root: docker build --file containers/search.Dockerfile --tag llama-nas-search:0.1.0 .
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}

LABEL org.opencontainers.image.title="llama-nas-search" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# LightGBM's OpenMP run-time.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/llama-nas
COPY envs envs
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/build.txt
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/search.txt
COPY pyproject.toml README.md LICENSE ./
COPY workflow workflow
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && llama-nas --version

RUN useradd --create-home worker
USER worker
WORKDIR /home/worker
