# What the rules of supernet.smk ask of the config.


def instructions(wildcards):
    """What must exist before the fine-tuning: the world, or a file or folder with instructions."""
    return literal(instructions_path(wildcards)) if "instructions" in config else "results/world"


def instructions_path(wildcards):
    """The file or folder itself."""
    source = config.get("instructions", {"path": "results/world/instructions.json"})
    return source["path"] if "path" in source else f"{HUB}/{source['hub_id']}"


def declared_space():
    """The space's keys of the config as options."""
    selection = SPACE["depth_selection"]
    listed = ",".join(map(str, selection)) if isinstance(selection, list) else selection
    order = "results/layer_order.json" if MEASURED else None
    return options(
        SPACE | {"depth_selection": listed, "layer_order": order}, "depths", "widths", "depth_selection", "layer_order"
    )
