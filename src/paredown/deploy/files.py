"""The files with which an operations team runs a package: container, compose, systemd, Kubernetes.

All of them start the same `server.py` with the same `serving.json`; checksums are looked at where
the files arrive: when an image is built, and before a unit starts.
"""

from __future__ import annotations

import re
from string import Template

from paredown.deploy.package import (
    MODEL,
    SERVING,
    SUMS,
    PackageRecord,
    ServingSettings,
)
from paredown.runtimes.base import KEY_VARIABLE, SERVER

_MIB = 1 << 20
_DOCKERFILE = Template("""\
# Built in the package's folder: docker build -t $image .
# The base can be another with Python 3.11 and glibc: --build-arg BASE=localhost/python:3.11-slim
ARG BASE=python:3.11-slim
FROM $${BASE}
COPY requirements.txt /package/
RUN python -m pip install --no-cache-dir -r /package/requirements.txt
COPY . /package
WORKDIR /package
# A byte that was changed on the way ends the build here, not in production.
RUN sha256sum --quiet --check $sums
# Any user will do: nothing is written.
USER 10001:10001
EXPOSE $port
HEALTHCHECK --interval=10s --timeout=5s --start-period=${start}s --retries=3 \\
  CMD ["python", "-c", \\
       "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=4)"]
STOPSIGNAL SIGTERM
# Within a container it has to listen on all addresses; it asks for the key in $key.
ENTRYPOINT ["python", "$server", "$model", "--settings", "$serving", \\
            "--host", "0.0.0.0", "--port", "$port"]
""")
_COMPOSE = Template("""\
# $key=... docker compose up --build
services:
  $image:
    build: .
    image: $image
    environment:
      $key: $${$key:?set a key, the server can be reached from outside of the container}
    ports:
      # Of this machine only; behind it belongs whatever does TLS.
      - "127.0.0.1:$port:$port"
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    mem_limit: ${mebibytes}m
    cpus: $threads
    # Longer than the server waits for the answers that it is giving.
    stop_grace_period: ${grace}s
    restart: unless-stopped
""")
_SYSTEMD = Template("""\
# Copy the package to /opt/$image and make a virtual environment beside it:
#   python3 -m venv /opt/$image-venv
#   /opt/$image-venv/bin/pip install -r /opt/$image/requirements.txt
# The key: a line $key=... in /etc/$image.env, readable by root only.
[Unit]
Description=$name behind an OpenAI-compatible API
After=network.target

[Service]
DynamicUser=yes
WorkingDirectory=/opt/$image
EnvironmentFile=-/etc/$image.env
ExecStartPre=/usr/bin/sha256sum --quiet --check $sums
ExecStart=/opt/$image-venv/bin/python $server $model --settings $serving
MemoryMax=${mebibytes}M
KillSignal=SIGTERM
TimeoutStopSec=$grace
Restart=on-failure
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
""")
_KUBERNETES = Template("""\
# kubectl create secret generic $image --from-literal=key=...; kubectl apply -f kubernetes.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $image
  labels: {app: $image}
spec:
  replicas: 1
  selector:
    matchLabels: {app: $image}
  template:
    metadata:
      labels: {app: $image}
      annotations:
        paredown/version: "$version"
    spec:
      # Longer than the server waits for the answers that it is giving.
      terminationGracePeriodSeconds: $grace
      containers:
        - name: server
          image: $image:$short
          ports:
            - {name: http, containerPort: $port}
          env:
            - name: $key
              valueFrom:
                secretKeyRef: {name: $image, key: key}
          resources:
            requests: {cpu: "$threads", memory: ${mebibytes}Mi}
            limits: {memory: ${mebibytes}Mi}
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 2
            failureThreshold: $tries
          readinessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 5
            timeoutSeconds: 5
          livenessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 20
            timeoutSeconds: 10
            failureThreshold: 3
          lifecycle:
            preStop:
              # New requests go on coming for a moment after the pod was told to end.
              exec: {command: ["sleep", "5"]}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            runAsNonRoot: true
            runAsUser: 10001
            capabilities: {drop: [ALL]}
---
apiVersion: v1
kind: Service
metadata:
  name: $image
spec:
  selector: {app: $image}
  ports:
    - {name: http, port: 80, targetPort: http}
""")
_GRACE_S = 70
_START_S = 120


def service_files(
    record: PackageRecord, settings: ServingSettings, requirements: tuple[str, ...]
) -> dict[str, str]:
    """Contents of the files, by name.

    Args:
        requirements: what the server needs, with versions, as pip reads it.
    """
    image = image_name(record.name)
    words = {
        "image": image, "name": record.name, "version": record.version,
        "short": record.version[:12], "port": settings.port, "threads": settings.threads,
        "mebibytes": -(-settings.memory_bytes // _MIB), "grace": _GRACE_S, "start": _START_S,
        "tries": _START_S // 2, "key": KEY_VARIABLE, "server": SERVER, "serving": SERVING,
        "model": MODEL, "sums": SUMS,
    }  # fmt: skip
    return {
        "Dockerfile": _DOCKERFILE.substitute(words),
        "compose.yaml": _COMPOSE.substitute(words),
        f"{image}.service": _SYSTEMD.substitute(words),
        "kubernetes.yaml": _KUBERNETES.substitute(words),
        "requirements.txt": "\n".join(requirements) + "\n",
    }


def image_name(name: str) -> str:
    """A model's name as containers, units and Kubernetes may call it (RFC 1123, 63 characters)."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return plain or "model"
