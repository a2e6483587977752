"""A file as it came -> what of it the pixels depend on, before any codec sees it.

Each module is for one format: ``essential(data, filler)`` takes a file and returns one of the same format with the
same pixels, the same way up, and nothing else: no comments, profiles, thumbnails, further frames, unknown parts. So
metadata can neither fail a picture nor cost memory, however broken or large they are.

Where the end of the file is missing, ``filler`` stands in for it: two different fillers give two files whose pixels
agree where they do not depend on what is missing (see `captioning.pictures.decoder`). An empty one adds nothing.

All work is linear and done in slices and regular expressions; no loop goes over more than MAX_PARTS parts of a file.
What lies behind those is not there.
"""
