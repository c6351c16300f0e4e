"""Print the versions of everything installed in this environment, as pip constraints; run by `make lock`."""

from importlib.metadata import distributions

print("# Every package of every environment, one version each; the .txt lists beside this file say who needs what.")
print("# Made by: make lock")
versions = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] not in ("llama-nas", "pip")}
for name in sorted(versions, key=str.lower):
    print(f"{name}=={versions[name].split('+')[0]}")  # without +cpu: a GPU machine gets its own build of the same pin
