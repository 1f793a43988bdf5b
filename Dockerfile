# paredown in a container: `cpu`, `cuda`, and the MLflow server that compose.yaml starts.
#
#   docker build --target cpu  -t paredown:cpu --build-arg TORCH_INDEX=URL .   PyTorch's index of CPU wheels
#   docker build --target cuda -t paredown:cuda .                              the CUDA build, from PyPI
#   docker run --rm -v paredown-cache:/cache -v "$PWD/data:/work/data" paredown:cpu run -m demo --episodes 3
#
# No weights are inside: models and everything that can be computed again go to the volume /cache.
# The base can be another one with Python 3.11 and glibc: --build-arg BASE=...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# --- What is installed; the versions are those that were tested together ---------------------------
FROM python AS tools
RUN python -m venv /opt/paredown
ENV PATH=/opt/paredown/bin:$PATH
WORKDIR /src
COPY constraints.txt ./

FROM tools AS torch-cpu
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=
# Without an index (or a folder of wheels, PIP_FIND_LINKS) pip would find no CPU build, and says so.
# The version stands in the argument:
# hadolint ignore=DL3013
RUN pip install "${TORCH}" ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"}

FROM tools AS torch-cuda
ARG TORCH=torch==2.13.0
# hadolint ignore=DL3013
RUN pip install "${TORCH}"

# Dependencies come before the code, so that a change of the code installs none of them again.
FROM torch-cpu AS cpu-env
ARG EXTRAS=all,dashboard,mlflow,pandas
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/paredown && touch src/paredown/__init__.py && pip install -c constraints.txt ".[${EXTRAS}]"
COPY src src
RUN pip install --no-deps --force-reinstall .

FROM torch-cuda AS cuda-env
ARG EXTRAS=all,dashboard,mlflow,pandas
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/paredown && touch src/paredown/__init__.py && pip install -c constraints.txt ".[${EXTRAS}]"
COPY src src
RUN pip install --no-deps --force-reinstall .

# --- What runs -------------------------------------------------------------------------------------
FROM python AS runtime
# Any user will do: written are the volumes alone.
RUN useradd --uid 10001 --create-home paredown \
  && install -d -o paredown -g paredown /cache /work /work/data
# Skills, which are to last, lie beside the experiments; what can be had again lies in the cache.
ENV PATH=/opt/paredown/bin:$PATH HOME=/home/paredown XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface XDG_DATA_HOME=/work/data
USER 10001:10001
WORKDIR /work
VOLUME ["/cache", "/work/data"]
# A run that is asked to end finishes what it writes; `paredown resume` goes on.
STOPSIGNAL SIGINT
ENTRYPOINT ["paredown"]
CMD ["--help"]

FROM runtime AS cuda
# The driver's libraries come from the host, through NVIDIA's container toolkit.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-env /opt/paredown /opt/paredown

FROM python AS mlflow
# The server is an image of its own: its dependencies are not ours.
ARG MLFLOW=mlflow==3.17.2
# hadolint ignore=DL3013
RUN pip install "${MLFLOW}" && useradd --uid 10001 --create-home mlflow && install -d -o mlflow -g mlflow /mlflow
USER 10001:10001
WORKDIR /mlflow
VOLUME ["/mlflow"]
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", \
            "--backend-store-uri", "sqlite:////mlflow/mlflow.db", "--artifacts-destination", "/mlflow/artifacts"]

FROM runtime AS cpu
COPY --from=cpu-env /opt/paredown /opt/paredown
