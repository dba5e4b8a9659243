"""Preparation of data sets: unpacked archives -> records that tasks read.

    items           what an archive is: lists of songs, made into records one by one
    archives        what their readers share
    maestro, guitarset, urmp, musicnet, slakh, folder, synthetic      the archives
    monophonic      clips with one line of notes, which are inferred
    pitch_trackers, pitch_hmm       how: pitch of each frame, then notes
    slakh_classes   from a stem's metadata to the classes of the MT3 paper
    recordings      recordings as records hold them, with their labels
    sequences       labels as records hold them
    examples        the bytes of a record
    shards          one shard, whole or not at all
    plan            which songs go to which shard, and whether that has changed
    running         all shards, in one process or several
    report          table, prepare-report.json, dataset.json
    command         `mt3 prepare`

    archive = Maestro.open("maestro-v3.0.0", settings)
    report = running.prepare(archive, "data", source="maestro-v3.0.0")

The records have the features of the published ones (`mt3.datasets`), so tasks read
either. Their audio is at 16 kHz unless asked otherwise, so that reading is quick;
WAV files in records have 16 bits. A song that cannot be used is skipped with the
reason; a run with such a song ends with exit code 1, unless the data set's own rules
leave it out.

Nothing is fetched from the network. The archives are read here and not by mirdata's
loaders: those need an index file that mirdata downloads, know other versions (MAESTRO
2 only) or no loader at all (URMP, MusicNet), and take seconds to import. For
downloading, mirdata serves well, and the folders that it leaves are read here (see
docs/data.md).

One song of each process is in memory at a time.

Differences from the original, numbered:

1. The original reads records that were made by programs which were not published.
   Where their making is not known, the modules say what is done here.
"""
