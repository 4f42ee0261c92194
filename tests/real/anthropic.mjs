// A tour through Anthropic's official npm library; the test's server answers by the question.
//
//   node anthropic.mjs BASE_URL MODEL
//
// Prints one JSON object: {"end": "complete", what each step found} or {"end": "error", step, message}.
import Anthropic from "@anthropic-ai/sdk";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const [base, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL: base, apiKey: "none", maxRetries: 0, timeout: 30000 });
const city = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } }, required: ["city"] };
const none = { type: "object", properties: {} };
const tools = [
    { name: "get_weather", description: "The weather of a city", input_schema: city },
    { name: "get_time", input_schema: none },
];
const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";
const tour = { end: "complete" };
let step = "";

const ask = (content, more = {}) => ({ model, max_tokens: 100, messages: [{ role: "user", content }], ...more });
const text = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

// Both ways give a message and the headers.
const ways = {
    async whole(request) {
        const { data, response } = await client.messages.create(request).withResponse();
        return { message: data, headers: response.headers, id: data._request_id };
    },
    async stream(request) {
        const pieces = [];
        const kinds = [];
        const stream = client.messages.stream(request);
        stream.on("text", (piece) => pieces.push(piece));
        stream.on("streamEvent", (event) => kinds.at(-1) === event.type || kinds.push(event.type));
        const { response } = await stream.withResponse();
        const message = await stream.finalMessage();
        return { message, headers: response.headers, id: stream.request_id, pieces, kinds };
    },
};

async function takeText(way) {
    const { message, headers, id, pieces, kinds } = await ways[way](ask("text"));
    const { input_tokens: fresh, cache_read_input_tokens: cached, output_tokens: out } = message.usage;
    const endpoint = headers.get("x-olla-endpoint");
    return { text: text(message), stop: message.stop_reason, usage: [fresh, cached, out], endpoint, id, pieces, kinds };
}

async function takeThinking(way) {
    const more = { max_tokens: 2000, thinking: { type: "enabled", budget_tokens: 1024 } };
    const { message } = await ways[way](ask("think", more));
    const messages = [{ role: "user", content: "think" }, { role: "assistant", content: message.content }];
    const again = await ways[way]({ ...ask("", more), messages: [...messages, { role: "user", content: "text" }] });
    const types = message.content.map((block) => block.type);
    return { types, thinking: message.content[0].thinking, text: text(message), again: text(again.message) };
}

async function takeTools(way) {
    const { message } = await ways[way](ask("tools", { tools }));
    const calls = message.content.filter((block) => block.type === "tool_use");
    const results = calls.map((call, n) => ({
        type: "tool_result",
        tool_use_id: call.id,
        content: n ? "noon" : [{ type: "text", text: "rain" }],
    }));
    const messages = [
        { role: "user", content: "tools" },
        { role: "assistant", content: message.content },
        { role: "user", content: results },
    ];
    const answer = await ways[way]({ ...ask("", { tools }), messages });
    return { inputs: calls.map((call) => [call.name, call.input]), stop: message.stop_reason, answer: text(answer.message) };
}

async function takeImage(way) {
    const source = { type: "base64", media_type: "image/png", data: png };
    const { message } = await ways[way](ask([{ type: "text", text: "image" }, { type: "image", source }]));
    return { text: text(message) };
}

async function takeRunner() {
    const weather = betaTool({ name: "get_weather", description: "", inputSchema: city, run: ({ city: name }) => `rain in ${name}` });
    const clock = betaTool({ name: "get_time", description: "", inputSchema: none, run: () => "noon" });
    return text(await client.beta.messages.toolRunner(ask("tools", { tools: [weather, clock], thread: false })));
}

async function takeStorm() {
    const schema = { type: "object", properties: { name: { type: "string" }, knots: { type: "integer" } }, required: ["name", "knots"] };
    const message = await client.messages.parse(ask("storm", { output_config: { format: jsonSchemaOutputFormat(schema) } }));
    return message.parsed_output;
}

async function takeModels() {
    const models = [];
    for await (const one of client.models.list()) {
        models.push(one.id);
    }
    return models;
}

async function fail(action) {
    try {
        await action();
    } catch (error) {
        const { status, requestID, type } = error;
        return { name: error.constructor.name, status: status ?? null, id: requestID ?? null, type: type ?? null, message: error.message };
    }
    return { name: null };
}

async function takeBroken() {
    let seen = "";
    let complete = false;
    const failure = await fail(async () => {
        for await (const event of await client.messages.create(ask("break", { stream: true }))) {
            seen += event.delta?.text ?? "";
        }
        complete = true;
    });
    return { ...failure, seen, complete };
}

async function take(name, action) {
    step = name;
    tour[name] = await action();
}

try {
    for (const way of Object.keys(ways)) {
        await take(`text ${way}`, () => takeText(way));
        await take(`think ${way}`, () => takeThinking(way));
        await take(`tools ${way}`, () => takeTools(way));
        await take(`image ${way}`, () => takeImage(way));
    }
    await take("runner", takeRunner);
    await take("storm", takeStorm);
    await take("models", takeModels);
    await take("count", async () => (await client.messages.countTokens({ model, messages: ask("Hello world").messages })).input_tokens);
    await take("unknown", () => fail(() => client.messages.create({ ...ask("text"), model: "m-nothing" })));
    await take("refused", () => fail(() => client.messages.create(ask("refuse"))));
    await take("overloaded", () => fail(() => client.messages.create(ask("overloaded"))));
    await take("broken", takeBroken);
} catch (error) {
    Object.assign(tour, { end: "error", step, message: String(error?.stack ?? error) });
}
process.stdout.write(JSON.stringify(tour) + "\n");
