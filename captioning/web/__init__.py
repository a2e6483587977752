"""HTTP: routes, bodies in, answers out, the request log, the API description and the pages."""
