"""Caption pictures: each module is one stage of a request, and none of them knows the web server."""
