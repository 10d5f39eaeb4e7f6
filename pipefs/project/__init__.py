"""Projects: a folder of code whose `data/` is a pipe, in the words of datakit-data.

From the top:

    moving      push and pull, with what datakit noted and other people's files in mind
    standing    what was pushed, what was not, and what differs in the bucket
    joining     a project's place in the bucket becomes a pipe of this machine, if it is free
    owner       whose a place in a bucket is
    markers     what datakit-data noted of each file
    layout      the folders and files of a project
    settings    `config/datakit-data.json` and what new projects take over
    flags       `delete dryrun force` and other words

The file `config/datakit-data.json` is datakit's own and stays one that datakit reads. Bytes are
moved by `pipefs.folder`.
"""
