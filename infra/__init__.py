"""WHERE: settings of this machine and the object store. Imports nothing of tasks or flows."""
