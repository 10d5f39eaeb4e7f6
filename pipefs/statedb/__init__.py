"""Inside the state database: journal, tables, the directory. The door is `pipefs.db`."""
