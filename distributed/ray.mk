# What people do with Ray, from the project's root: the Makefile there includes this file.

# Whoever reaches a cluster's ports can run code on it: its own processes and ours show each other a token. Ray reports how
# it is used to its makers unless it is told not to.
RAY = RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

.PHONY: install-ray serve-ray caption-dataset

install-ray: .venv-ray/installed ## make .venv-ray with what distributed/ needs: the service and Ray

serve-ray: .venv-ray/installed ## serve on Ray, here or on the cluster that RAY_ADDRESS names: port 8000
	$(RAY) PYTHONPATH=$(CURDIR) RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=distributed.proxy.middlewares \
	.venv-ray/bin/serve run distributed/serve.yaml

caption-dataset: .venv-ray/installed ## caption a table or folder on all machines of a cluster (INPUT=… OUTPUT=folder; COLUMN=name RESUME=1)
	$(RAY) .venv-ray/bin/python -m distributed.bulk '$(INPUT)' '$(OUTPUT)' $(if $(COLUMN),--column $(COLUMN)) $(if $(RESUME),--resume) $(ARGS)

.venv-ray/installed: requirements.txt requirements-ray.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-ray.txt
	touch $@
