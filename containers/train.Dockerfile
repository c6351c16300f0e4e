# Pre-training and super-network fine-tuning; has a compiler, as DeepSpeed builds its CPU operators at first use.
# From the repository's root: docker build --file containers/train.Dockerfile --tag llama-nas-train:0.1.0 .
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}

LABEL org.opencontainers.image.title="llama-nas-train" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ ninja-build \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/llama-nas
COPY envs envs
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/build.txt
# torch before the rest and from its own pin, or other packages would choose another build of it.
RUN pip install --no-cache-dir --constraint envs/constraints.txt torch
RUN DS_BUILD_OPS=0 pip install --no-cache-dir --constraint envs/constraints.txt --no-build-isolation deepspeed
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/train.txt
COPY pyproject.toml README.md LICENSE ./
COPY workflow workflow
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && llama-nas --version

RUN useradd --create-home worker
USER worker
WORKDIR /home/worker
