# Compiling tasks, scoring, export, INT8, stock lm-eval.
# From the repository's root: docker build --file containers/score.Dockerfile --tag llama-nas-score:0.1.0 .
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}

LABEL org.opencontainers.image.title="llama-nas-score" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

WORKDIR /opt/llama-nas
COPY envs envs
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/build.txt
# torch before the rest and from its own pin, or other packages would choose another build of it.
RUN pip install --no-cache-dir --constraint envs/constraints.txt torch
RUN pip install --no-cache-dir --constraint envs/constraints.txt --requirement envs/score.txt
COPY pyproject.toml README.md LICENSE ./
COPY workflow workflow
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && llama-nas --version

RUN useradd --create-home worker
USER worker
WORKDIR /home/worker
