# SIGMA in a container. `docker build -t sigma:cpu .` is for machines without a GPU; for NVIDIA GPUs:
#   docker build --build-arg BUILD=cuda -t sigma:cuda .
# INSTALL.md tells how to use them.

# The Python that constraints.txt was run with. Its image has the headers that Triton compiles against.
ARG BASE=python:3.11-slim-bookworm
# cpu or cuda: which stage below installs the packages.
ARG BUILD=cpu

FROM ${BASE} AS system
# g++ compiles the blocks of --compile and Triton's launchers; git tells a run which commit it records.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ git \
    && rm -rf /var/lib/apt/lists/*
# The owner of what a run writes into a mounted folder: build with the number that `id -u` prints.
ARG UID=1000
RUN useradd --uid "${UID}" --create-home sigma && install --directory --owner=sigma --group=sigma /sigma
USER ${UID}
WORKDIR /sigma
ENV PATH=/sigma/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN python3 -m venv .venv
COPY --chown=sigma:sigma requirements.txt constraints.txt ./

FROM system AS packages-cpu
# PyTorch's index of builds without CUDA, of about 1 GB instead of several.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m pip install --no-cache-dir --progress-bar off --extra-index-url "${CPU_INDEX}" \
    -r requirements.txt -c constraints.txt

FROM system AS packages-cuda
# The build of the default index: it has the CUDA libraries inside, so the image needs none of its own.
RUN python -m pip install --no-cache-dir --progress-bar off -r requirements.txt -c constraints.txt
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM packages-${BUILD}
WORKDIR /sigma
COPY --chown=sigma:sigma . .
# The commands `sigma`, `sigma-pretrain` and so on; then the stamp of scripts/env.sh, after a look whether all is well.
RUN python -m pip install --no-cache-dir --no-deps --editable . && bash -c 'source scripts/env.sh requirements.txt'
CMD ["sigma", "--help"]
