"""The examples for autoscalers: lawful for promtool, on metrics that there are, and right on a known day."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from eagle_eye.probes.engines import SPEC

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"
RULES = EXAMPLES / "engine-rules.yaml"
DAY = """
rule_files: [{rules}]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {{series: 'eagle_eye_engine_up{{model="llama",dp_rank="0"}}', values: '1x40'}}
      - {{series: 'eagle_eye_engine_up{{model="llama",dp_rank="1"}}', values: '0x40'}}
      - {{series: 'eagle_eye_engine_requests_waiting{{model="llama",dp_rank="0"}}', values: '7x40'}}
      - {{series: 'eagle_eye_engine_requests_unseen{{model="llama",dp_rank="0"}}', values: '30x40'}}
      - {{series: 'eagle_eye_engine_kv_usage_ratio{{model="llama",dp_rank="0"}}', values: '0.9x40'}}
      - {{series: 'eagle_eye_engine_waiting_prefill_tokens{{model="llama",dp_rank="0"}}', values: '6000x40'}}
      - {{series: 'eagle_eye_engine_tokens_total{{model="llama",kind="prefill"}}', values: '0+30000x40'}}
      - {{series: 'eagle_eye_engine_queue_seconds_bucket{{model="llama",le="0.5"}}', values: '0+0x40'}}
      - {{series: 'eagle_eye_engine_queue_seconds_bucket{{model="llama",le="1"}}', values: '0+10x40'}}
      - {{series: 'eagle_eye_engine_queue_seconds_bucket{{model="llama",le="+Inf"}}', values: '0+10x40'}}
    promql_expr_test:
      - {{expr: 'model:eagle_eye_engine_ranks:sum', eval_time: 8m, exp_samples: [{{labels: 'model:eagle_eye_engine_ranks:sum{{model="llama"}}', value: 1}}]}}
      - {{expr: 'model:eagle_eye_engine_requests_waiting:sum', eval_time: 8m, exp_samples: [{{labels: 'model:eagle_eye_engine_requests_waiting:sum{{model="llama"}}', value: 37}}]}}
      - {{expr: 'round(model:eagle_eye_engine_queue_work_seconds:sum, 0.01)', eval_time: 8m, exp_samples: [{{labels: '{{model="llama"}}', value: 3}}]}}
      - {{expr: 'model:eagle_eye_engine_queue_seconds:p90_2m', eval_time: 8m, exp_samples: [{{labels: 'model:eagle_eye_engine_queue_seconds:p90_2m{{model="llama"}}', value: 0.95}}]}}
    alert_rule_test:
      - {{eval_time: 8m, alertname: EngineSilent, exp_alerts: [{{exp_labels: {{severity: warning, model: llama, dp_rank: "1"}}, exp_annotations: {{summary: " llama in  says nothing: its load is unknown"}}}}]}}
"""  # noqa: E501


def promtool(*words):
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def queries():
    """Every expression of the rules and of KEDA, with its name."""
    rules = yaml.safe_load(RULES.read_text())["groups"]
    found = [(rule.get("record") or rule["alert"], rule["expr"]) for group in rules for rule in group["rules"]]
    triggers = yaml.safe_load((EXAMPLES / "keda.yaml").read_text())["spec"]["triggers"]
    return found + [(f"keda {number}", trigger["metadata"]["query"]) for number, trigger in enumerate(triggers)]


def test_the_rules_are_lawful():
    promtool("check", "rules", str(RULES))


def test_the_rules_are_right_on_a_known_day(tmp_path):
    day = tmp_path / "day.yaml"
    day.write_text(DAY.format(rules=RULES))
    promtool("test", "rules", str(day))


@pytest.mark.parametrize(("name", "query"), queries())
def test_queries_ask_for_what_there_is(name, query, tmp_path):
    rule = tmp_path / "rule.yaml"
    rule.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "a:b:c", "expr": query}]}]}))
    promtool("check", "rules", str(rule))
    recorded = {name for name, _ in queries()}
    declared = {metric.name for metric in SPEC.metrics}
    for asked in re.findall(r"[a-z:]*eagle_eye_engine_[a-z0-9_:]+", query):
        assert asked in recorded or re.sub(r"_bucket$", "", asked) in declared, asked


def test_the_autoscaler_asks_for_what_the_adapter_serves():
    hpa = yaml.safe_load((EXAMPLES / "hpa.yaml").read_text())
    served = {re.sub(r"^model:(.*):(.*)$", r"\1_\2", name) for name, _ in queries()}

    assert (hpa["apiVersion"], hpa["kind"]) == ("autoscaling/v2", "HorizontalPodAutoscaler")
    assert {one["external"]["metric"]["name"] for one in hpa["spec"]["metrics"]} <= served
