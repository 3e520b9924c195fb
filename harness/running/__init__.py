"""One configuration: settings, hardware, records and their cache, work, audit."""
