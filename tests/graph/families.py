# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates in the manner of well-known families, written for the tests: their constructs, not their words."""

from __future__ import annotations

__all__ = ["FAMILIES"]

# Headers around each turn, tools in the first user's turn, a date, a tool's result under another role.
LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|head|>system<|tail|>\\n\\nDay: " + date_string + "\\n\\n" + system_message + "<|end|>" }}
{%- if tools is not none and not messages | length == 0 %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '<|head|>user<|tail|>\\n\\nFunctions:\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first + "<|end|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|tail|>\\n\\n' + message['content'] | trim + '<|end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("One call at a time, please.") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|tail|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}<|end|>" }}
    {%- else %}
        {{- "<|head|>ipython<|tail|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\\n\\n' }}{%- endif %}
"""

# Thoughts are cut from all turns before the last question; a switch for thinking; results of tools are grouped.
QWEN = """{%- if tools %}
    {{- '<|start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "## Functions\\n<fns>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</fns><|stop|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|start|>system\\n' + messages[0].content + '<|stop|>\\n' }}
{%- endif %}
{%- set ns = namespace(open=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.open and message.role == "user" and message.content is string and
          not (message.content.startswith('<result>') and message.content.endswith('</result>')) %}
        {%- set ns.open = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|start|>' + message.role + '\\n' + content + '<|stop|>\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}{{- '<|start|>assistant\\n' + content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|stop|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|start|>user' }}{%- endif %}
        {{- '\\n<result>\\n' + content + '\\n</result>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|stop|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

# Turns must alternate; the tools stand before the last user's turn; identifiers have nine characters.
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{%- set users = rest | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in rest %}
    {%- if not (message.role == "tool" or (message.role == "assistant" and message.tool_calls is defined)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("First the user, then the assistant, and so on.") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and tools is defined and (message == users[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}{{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function|tojson %}{{- out[:-1] }}
            {%- if not call.id is defined or call.id|length != 9 %}
                {{- raise_exception("An identifier has nine characters.") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}{{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {%- set content = message.content.content if message.content.content is defined else message.content %}
        {{- '[RESULT] {"content": ' + content|string + '}[/RESULT]' }}
    {%- else %}{{- raise_exception("Only user, assistant and tool come after the system.") }}{%- endif %}
{%- endfor %}"""

# The system's words go into the first turn; the assistant is called "model"; content may be a list of parts.
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}{%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles take turns: user, assistant, user, ...") }}
    {%- endif -%}
    {%- set role = "model" if (message['role'] == 'assistant') else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<picture>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Content of such a kind is unknown") }}{%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<turn>model\\n'}}{%- endif -%}
"""

# One loop with conditions, white space kept as it is written.
PHI = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|sys|>
' + message['content'] + '<|fin|>
'}}{% elif message['role'] == 'user' %}{{'<|usr|>
' + message['content'] + '<|fin|>
'}}{% elif message['role'] == 'assistant' %}{{'<|bot|>
' + message['content'] + '<|fin|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>
' }}{% else %}{{ eos_token }}{% endif %}
"""

# Macros with recursion that write a JSON schema as types, and documents.
COMMAND = """{{- bos_token -}}
{%- macro as_type(schema, depth=0) -%}
    {%- if schema.type == 'object' -%}
        { {%- for name, part in (schema.properties or {})|dictsort -%}
            {{ name }}{{ '' if name in (schema.required or []) else '?' }}: {{ as_type(part, depth + 1) }}
            {%- if not loop.last %}; {% endif -%}
        {%- endfor -%} }
    {%- elif schema.type == 'array' -%}List[{{ as_type(schema['items'], depth + 1) }}]
    {%- elif schema.enum -%}{{ schema.enum|map('tojson')|join(' | ') }}
    {%- else -%}{{ {'string': 'str', 'integer': 'int', 'number': 'float'}.get(schema.type, schema.type) }}{%- endif -%}
{%- endmacro -%}
{%- if messages[0]['role'] == 'system' -%}{%- set preamble = messages[0]['content'] -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set preamble = false -%}{%- set turns = messages -%}{%- endif -%}
{%- if preamble != false or tools or documents -%}
    <|SYSTEM|>{{ preamble or 'Be of use.' }}
    {%- for tool in tools or [] %}

def {{ tool.function.name }}({{ as_type(tool.function.parameters) }}):
    {{ tool.function.description | indent(4) }}
    {%- endfor -%}
    {%- for document in documents or [] %}

Document: {{ loop.index0 }}
{% for key, value in document.items() %}{{ key }}: {{ value }}{{ '' if loop.last else '\\n' }}{% endfor %}
    {%- endfor -%}
    <|STOP|>
{%- endif -%}
{%- for turn in turns -%}
    {%- if turn.role == 'user' -%}<|USER|>{{ turn.content.strip() }}<|STOP|>
    {%- elif turn.role == 'assistant' -%}<|BOT|>{{ (turn.content or '').strip() }}
        {%- if turn.tool_calls %}{{ turn.tool_calls|map(attribute='function')|list|tojson(indent=2) }}{% endif -%}
        <|STOP|>
    {%- else -%}<|RESULT|>{{ turn.content }}<|STOP|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|BOT|>{%- endif -%}"""

# State in a namespace over several loops; what a turn needs follows from the turn before it.
DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{% set ns = namespace(is_first=false, is_tool=false, system='', is_first_system=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- if ns.is_first_system %}{% set ns.system = ns.system + message['content'] %}{% set ns.is_first_system = false %}
{%- else %}{% set ns.system = ns.system + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for message in messages -%}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|User|>' + message['content'] }}{%- endif %}
{%- if message['role'] == 'assistant' and message['tool_calls'] %}{%- set ns.is_tool = false -%}
{%- set ns.is_first = true -%}
{%- for tool in message['tool_calls'] %}
{%- if ns.is_first %}{{ '<|Assistant|><|calls|>' }}{%- set ns.is_first = false -%}{%- else %}{{ '\\n' }}{%- endif %}
{{- '<|call|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' -}}
{%- set given = tool['function']['arguments'] %}{{- (given if given is string else given|tojson) -}}
{{- '\\n```<|/call|>' }}{%- endfor %}{{ '<|/calls|>' + eos_token }}
{%- elif message['role'] == 'assistant' %}
{%- if ns.is_tool %}{{ '<|/results|>' + message['content'] + eos_token }}{%- set ns.is_tool = false -%}
{%- else %}{%- set content = message['content'] %}
{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
{{- '<|Assistant|>' + content + eos_token }}{%- endif %}{%- endif %}
{%- if message['role'] == 'tool' %}
{{- ('\\n' if ns.is_tool else '<|results|>') + '<|result|>' + message['content'] + '<|/result|>' }}
{%- set ns.is_tool = true -%}{%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{ '<|/results|>' }}{% endif %}
{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

# Lines between blocks that are trimmed or are not.
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
    {% generation %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endgeneration %}

{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

# A default system text with the date, documents as turns of their own, controls and switches.
GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "As of " + strftime_now('%B %d, %Y') + ": a helper." %}
    {%- if tools and documents %}{%- set system_message = system_message + " Functions and texts are given." %}
    {%- elif thinking %}{%- set system_message = system_message + " Think, then answer." %}{%- endif %}
    {%- if controls and 'length' in controls %}
        {%- set system_message = system_message + " Length: " + controls['length'] %}
    {%- endif %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|r|>system<|/r|>' + system_message + '<|end|>\\n' }}
{%- if tools %}{{- '<|r|>tools<|/r|>' }}{{- tools | tojson(indent=4) }}{{- '<|end|>\\n' }}{%- endif %}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|r|>document {"id": "' + document.get('doc_id', loop.index)|string + '"}<|/r|>\\n' }}
        {{- document['text'] }}{{- '<|end|>\\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|r|>' + message['role'] + '<|/r|>' + (message['content'] or '') }}
    {%- for call in message.tool_calls or [] %}{{- '<call>' + call.function|tojson(sort_keys=true) }}{%- endfor %}
    {{- '<|end|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|r|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson }}{%- endif %}{{- '<|/r|>' }}
    {%- endif %}
{%- endfor %}"""

# ChatML with functions in the system's turn, generation blocks, default() and filters.
HERMES = """{%- macro describe(tool) -%}
{{ '{"type": "function", "function": {"name": "' + tool.name + '", "description": "' + tool.name + '(' }}
{%- for name, fields in tool.parameters.properties.items() -%}
{{ name + ": " + fields.type|default('any', true) + ('' if loop.last else ', ') }}
{%- endfor -%}
{{ ')' + (' -> ' + tool.return.type if tool.return else '') + ' - ' + tool.description + '", "parameters": ' }}
{{- '{}' if tool.parameters.properties|length == 0 else tool.parameters|tojson }}{{ '}}' }}
{%- endmacro -%}
{%- set texts = messages|selectattr('role', 'equalto', 'system')|map(attribute='content') %}
{%- set system = texts|first|default('None.', true) %}
{{- '<|im|>system\\n' + system }}
{%- for tool in tools or [] %}{{- '\\n' + describe(tool.function|default(tool)) }}{%- endfor %}
{{- '<|/im|>\\n' }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'assistant' %}
        {{- '<|im|>assistant' }}
        {%- generation %}
        {%- set text = message.content|default('', true) %}
        {{- '\\n' + text }}
        {%- for call in message.tool_calls|default([]) %}
            {{- '\\n<call>' + {'name': call.function.name, 'arguments': call.function.arguments}|tojson + '</call>' }}
        {%- endfor %}{{- '<|/im|>' }}
        {%- endgeneration %}{{- '\\n' + text|default('(nothing)') + '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im|>tool\\n' ~ message.content ~ ('<|/im|>\\n' if loop.nextitem is not defined else '<|/im|>') }}
    {%- else %}
        {%- if loop.previtem is defined and loop.previtem.role == 'user' %}{{- '(again) ' }}{%- endif %}
        {{- '<|im|>' ~ message.role ~ '\\n' ~ message.content ~ '<|/im|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im|>assistant\\n' }}{%- endif %}"""

# Channels; the reasoning is in its own field, and a switch has three values.
CHANNELS = """{%- set effort = reasoning_effort|default('medium') %}
{%- if effort not in ['low', 'medium', 'high'] %}{{- raise_exception('Unknown effort: ' ~ effort) }}{%- endif %}
{{- '<|s|>system<|m|>Day ' + strftime_now('%Y-%m-%d') + ' effort ' + effort + '<|e|>' }}
{%- set last = namespace(call=none) %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if message.thinking is defined and message.thinking %}
            {{- '<|s|>assistant<|c|>analysis<|m|>' + message.thinking + '<|e|>' }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- set last.call = call.function.name %}
            {{- '<|s|>assistant to=' + call.function.name + '<|c|>commentary<|m|>' }}
            {{- call.function.arguments|tojson + '<|k|>' }}
        {%- endfor %}
        {%- if message.content %}{{- '<|s|>assistant<|c|>final<|m|>' + message.content + '<|e|>' }}{%- endif %}
    {%- elif message.role == 'tool' %}
        {%- if last.call is none %}{{- raise_exception('A result without a call') }}{%- endif %}
        {{- '<|s|>' + last.call + ' to=assistant<|m|>' + message.content|tojson + '<|e|>' }}
    {%- else %}{{- '<|s|>' + message.role + '<|m|>' + message.content|string + '<|e|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|s|>assistant' }}{%- endif %}"""

FAMILIES = {
    "llama 3": LLAMA,
    "qwen 3": QWEN,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi 3": PHI,
    "command r": COMMAND,
    "deepseek": DEEPSEEK,
    "zephyr": ZEPHYR,
    "granite": GRANITE,
    "hermes": HERMES,
    "gpt-oss": CHANNELS,
}
