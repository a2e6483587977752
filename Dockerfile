# The service with its model inside: `docker build -t smartscan-captioning .`, then `docker compose up`.
# Pin it for a build that can be repeated: --build-arg PYTHON=python@sha256:…, as `docker buildx imagetools inspect
# python:3.11-slim-bookworm` names it.
ARG PYTHON=python:3.11-slim-bookworm

# Exports the model to 8 bits; torch and transformers are needed here and nowhere later. Only what the export imports is
# copied, so that a change of anything else does not export again.
FROM ${PYTHON} AS export
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG MODEL_ID=Salesforce/blip-image-captioning-base
WORKDIR /service
COPY requirements.txt ./
# The index serves torch alone: no other name can come from it.
RUN grep '^torch==' requirements.txt > torch.txt \
    && pip install --no-cache-dir --no-deps --root-user-action=ignore \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt \
    && pip install --no-cache-dir --root-user-action=ignore -r requirements.txt
COPY tools tools
COPY models models
COPY model_loader.py ./
COPY captioning/*.py captioning/
COPY captioning/cache captioning/cache
COPY captioning/model captioning/model
COPY captioning/observe captioning/observe
RUN python -m tools.export_int8 --model "$MODEL_ID" --out /model

FROM ${PYTHON}
WORKDIR /service
COPY requirements.txt ./
# What only the export and the float32 engine import is left out: a third of a gigabyte instead of two. /sbom.json lists
# what is there (pip's own format; cyclonedx-py reads it).
RUN grep -vE '^(torch|transformers|onnx|ml-dtypes|sympy|mpmath|networkx|hf-xet)==' requirements.txt > serving.txt \
    && pip install --no-cache-dir --no-deps --root-user-action=ignore -r serving.txt \
    && pip inspect > /sbom.json \
    && useradd --system --uid 10001 service
COPY --from=export /model /model
COPY app.py wsgi.py model_loader.py gunicorn.conf.py ./
COPY captioning captioning
COPY models/blip-emoji/samples models/blip-emoji/samples
USER service
ENV ENGINE=int8 MODEL_ID=/model PORT=8000 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
# Liveness alone: an orchestrator that restarts what is not ready would never see a slow start end.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
# Not through a shell: SIGTERM must reach gunicorn, which then finishes what it accepted.
CMD ["gunicorn", "wsgi:app"]
