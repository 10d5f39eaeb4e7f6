"""Inside the block cache: index, segments, eviction, downloads, readahead. The doors are
`pipefs.blocks` and `pipefs.content`."""
