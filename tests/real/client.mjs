// One exchange with an official npm client library; the test reads the lines this prints.
//
//   node client.mjs openai|ollama whole|stream BASE_URL MODEL MAX_TOKENS
//   node client.mjs ollama tour BASE_URL MODEL 0        every other call of the library once
//
// Prints one JSON object per line: {"first": ENDPOINT} when the first piece of a stream is there, and at last
// {"end": "complete", text, pieces, endpoint, finish, usage, tour} or {"end": "error", message, pieces, endpoint}.
import OpenAI from "openai";
import { Ollama } from "ollama";

const [library, mode, base, model, limit] = process.argv.slice(2);
const messages = [{ role: "user", content: "Tell me about the sea." }];
const result = { end: "complete", text: "", pieces: 0, endpoint: null, finish: null, usage: null };

function print(object) {
    process.stdout.write(JSON.stringify(object) + "\n");
}

function takePiece(text) {
    if (!text) {
        return;
    }
    result.text += text;
    result.pieces += 1;
    if (result.pieces === 1) {
        print({ first: result.endpoint });
    }
}

async function runOpenai() {
    const client = new OpenAI({ baseURL: base, apiKey: "none", maxRetries: 0, timeout: 60000 });
    const request = { model, messages, max_tokens: Number(limit), ignore_eos: true };
    if (mode === "whole") {
        const { data, response } = await client.chat.completions.create(request).withResponse();
        result.endpoint = response.headers.get("x-olla-endpoint");
        result.finish = data.choices[0].finish_reason;
        result.usage = data.usage.completion_tokens;
        takePiece(data.choices[0].message.content);
        return;
    }
    const { data, response } = await client.chat.completions
        .create({ ...request, stream: true, stream_options: { include_usage: true } })
        .withResponse();
    result.endpoint = response.headers.get("x-olla-endpoint");
    for await (const chunk of data) {
        takePiece(chunk.choices[0]?.delta?.content);
        result.finish = chunk.choices[0]?.finish_reason ?? result.finish;
        result.usage = chunk.usage?.completion_tokens ?? result.usage;
    }
}

async function takeTour(client) {
    const tour = {};
    tour.list = (await client.list()).models.map((entry) => entry.model);
    tour.context = (await client.show({ model })).model_info["sample.context_length"];
    tour.generate = (await client.generate({ model, prompt: "The sea" })).response;
    tour.embed = (await client.embed({ model, input: ["the sea", "the land"] })).embeddings.map((one) => one.length);
    tour.embeddings = (await client.embeddings({ model, prompt: "the sea" })).embedding.length;
    tour.ps = (await client.ps()).models.map((entry) => entry.model);
    tour.version = (await client.version()).version;
    tour.pull = await client.pull({ model: "sample-new" }).catch((error) => ({
        status: error.status_code,
        message: error.message,
    }));
    return tour;
}

async function runOllama() {
    const client = new Ollama({
        host: base,
        fetch: async (url, options) => {
            const response = await fetch(url, options);
            result.endpoint = response.headers.get("x-olla-endpoint");
            return response;
        },
    });
    if (mode === "tour") {
        result.tour = await takeTour(client);
        return;
    }
    const request = { model, messages, options: { num_predict: Number(limit) } };
    const take = (part) => {
        takePiece(part.message.content);
        if (part.done) {
            result.finish = part.done_reason;
            result.usage = part.eval_count;
        }
    };
    if (mode === "whole") {
        take(await client.chat(request));
        return;
    }
    for await (const part of await client.chat({ ...request, stream: true })) {
        take(part);
    }
}

try {
    await (library === "openai" ? runOpenai() : runOllama());
} catch (error) {
    result.end = "error";
    result.message = String(error?.message ?? error);
    result.status = error?.status ?? error?.status_code ?? null;
}
print(result);
