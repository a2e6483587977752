# The service with its model inside: `docker build -t smartscan-captioning .`, then `docker compose up`.
# Pin it for a build that can be repeated: --build-arg PYTHON=python@sha256:…, as `docker buildx imagetools inspect
# python:3.11-slim-bookworm` names it.
ARG PYTHON=python:3.11-slim-bookworm
# torch: the float32 model and the libraries that it needs, 2 GB more.
ARG ENGINE=int8

# All libraries, and only what loading a model imports, so that a change of anything else does not export again.
FROM ${PYTHON} AS libraries
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /service
COPY requirements.txt ./
# The index serves torch alone: no other name can come from it.
RUN grep '^torch==' requirements.txt > torch.txt \
    && pip install --no-cache-dir --no-deps --root-user-action=ignore \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt \
    && pip install --no-cache-dir --root-user-action=ignore -r requirements.txt
COPY models models
COPY model_loader.py ./
COPY captioning/*.py captioning/
COPY captioning/cache captioning/cache
COPY captioning/model captioning/model
COPY captioning/observe captioning/observe

FROM libraries AS export
ARG MODEL_ID=Salesforce/blip-image-captioning-base
COPY tools tools
RUN python -m tools.export_int8 --model "$MODEL_ID" --out /model

FROM libraries AS torch
ARG MODEL_ID=Salesforce/blip-image-captioning-base
RUN MODEL_ID="$MODEL_ID" HF_HOME=/tmp/hub python -m model_loader /model && rm -rf /tmp/hub

FROM ${PYTHON} AS int8
WORKDIR /service
COPY requirements.txt deploy/export-only.txt ./
# A third of a gigabyte instead of two.
RUN grep -vf export-only.txt requirements.txt > serving.txt \
    && pip install --no-cache-dir --no-deps --root-user-action=ignore -r serving.txt
COPY --from=export /model /model

FROM ${ENGINE}
ARG ENGINE
# /sbom.json lists what is there (pip's own format; cyclonedx-py reads it).
RUN pip inspect > /sbom.json && useradd --system --uid 10001 service
COPY app.py wsgi.py model_loader.py gunicorn.conf.py ./
COPY captioning captioning
COPY models/blip-emoji/samples models/blip-emoji/samples
USER service
ENV ENGINE=${ENGINE} MODEL_ID=/model PORT=8000 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
# Liveness alone: an orchestrator that restarts what is not ready would never see a slow start end.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
# Not through a shell: SIGTERM must reach gunicorn, which then finishes what it accepted.
CMD ["gunicorn", "wsgi:app"]
