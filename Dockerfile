# Two images from one file: `node` for receiver, assembler, courier and web (no PyTorch, about 1 GB),
# `scorer` with everything (about 7 GB, CUDA included). Exact versions come from constraints.txt.
FROM docker.io/library/python:3.11-slim-bookworm AS dependencies
# A certificate bundle for pip, where a proxy needs one.
ARG PIP_CERT
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# dcmtk: dsrdump checks every SR before it is sent.
# Health: a port that speaks DICOM answers a release without association by A-ABORT (PS3.8 9.2.3).
# A C-ECHO would be refused, and recorded, wherever only listed senders may connect.
RUN apt-get update \
 && apt-get install -y --no-install-recommends dcmtk \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /var/lib/dicom_node --create-home node \
 && python3 -m venv /opt/venv
WORKDIR /opt/dicom_node
COPY pyproject.toml constraints.txt README.md LICENSE ./
# An empty package stands for the real one, so that a change of code does not install PyTorch again.
RUN mkdir dicom_node config models \
 && echo '__version__ = "0"' > dicom_node/__init__.py \
 && pip install -c constraints.txt . \
 && pip uninstall -y dicom_node

FROM dependencies AS node
COPY dicom_node dicom_node
COPY config config
COPY models models
RUN pip install --no-deps . && rm -rf build
ENV DICOM_NODE_HOME=/var/lib/dicom_node \
    DICOM_NODE_DICOM__HOST=0.0.0.0 \
    DICOM_NODE_WEB__HOST=0.0.0.0 \
    DICOM_NODE_LOG__FORMAT=json \
    TCP_NODELAY=1
USER node
VOLUME /var/lib/dicom_node
EXPOSE 11112 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import socket as s; c = s.create_connection(('127.0.0.1', 11112), 5); c.sendall(bytes.fromhex('05000000000400000000')); assert c.recv(1) == b'\\x07'"]
ENTRYPOINT ["dicom-node"]
CMD ["receive"]

FROM dependencies AS scorer
RUN pip install -c constraints.txt ".[score]" && pip uninstall -y dicom_node
COPY dicom_node dicom_node
COPY config config
COPY models models
RUN pip install --no-deps . && rm -rf build
ENV DICOM_NODE_HOME=/var/lib/dicom_node \
    DICOM_NODE_DICOM__HOST=0.0.0.0 \
    DICOM_NODE_WEB__HOST=0.0.0.0 \
    DICOM_NODE_LOG__FORMAT=json \
    ORT_DISABLE_TELEMETRY=1 \
    TCP_NODELAY=1
USER node
VOLUME /var/lib/dicom_node
EXPOSE 11112 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import socket as s; c = s.create_connection(('127.0.0.1', 11112), 5); c.sendall(bytes.fromhex('05000000000400000000')); assert c.recv(1) == b'\\x07'"]
ENTRYPOINT ["dicom-node"]
CMD ["serve"]
