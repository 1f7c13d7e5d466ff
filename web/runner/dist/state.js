// The state of a run as the files of a native checkpoint: runtime/src/checkpoint.rs has the other side.
//
// Invariant: everything of a checkpoint is checked before anything of it is used.
import { readTensors, writeTensors } from './safetensors.js';
/** State prefixes of the first and second moments, and their prefixes in optim.safetensors. */
const MOMENTS = [['adam.m.', 'm.'], ['adam.v.', 'v.']];
/** Version of state.json. */
const STATE_VERSION = 1;
/** A model that is a graph, as a configuration names it. */
export const GRAPH_FILE = 'model.gir';
/** Names of all states of a run: the weights and both their moments. */
export function stateNames(weights) {
    return ['', ...MOMENTS.map(([prefix]) => prefix)].flatMap((prefix) => weights.map((name) => prefix + name));
}
/** The weights among the states of a training program. */
export function weightsOf(states) {
    return states.filter((name) => MOMENTS.every(([prefix]) => !name.startsWith(prefix)));
}
/** The files of a run whose states `read` gives by name; they are copied. */
export function formatState({ config, graph, weights, step, elapsed }, read) {
    const model = new Map(weights.map((name) => [name, read(name)]));
    const moments = MOMENTS.flatMap(([state, file]) => weights.map((name) => [file + name, read(state + name)]));
    const named = graph === undefined ? config : { ...config, graph: GRAPH_FILE };
    const state = { version: STATE_VERSION, step, seed: config.train.seed, elapsed_s: elapsed, config: named };
    const architecture = graph === undefined ? { 'tinygpt.model': JSON.stringify(config.model) } : { 'tinygpt.graph': graph };
    return {
        model: writeTensors({ tensors: model, metadata: { format: 'pt', ...architecture } }),
        optim: writeTensors({ tensors: new Map(moments), metadata: { format: 'pt' } }),
        state: new TextEncoder().encode(JSON.stringify(state, null, 2)),
    };
}
/** What a checkpoint holds for the states of a model with these weights; a state without a value is zeros. */
export function readState({ model, optim, state }, weights, shapeOf) {
    const found = readTensors(model, 'model.safetensors').tensors;
    const moments = optim && readTensors(optim, 'optim.safetensors').tensors;
    const [step, elapsed] = state ? parseState(state) : [0, 0];
    const values = weights.flatMap((name) => [
        [name, fitting(found, name, shapeOf(name), 'model.safetensors')],
        ...MOMENTS.map(([prefix, file]) => [prefix + name, moments && fitting(moments, file + name, shapeOf(prefix + name), 'optim.safetensors')]),
    ]);
    for (const [file, count, expected] of [
        ['model.safetensors', found.size, weights.length],
        ['optim.safetensors', moments?.size ?? 0, moments ? 2 * weights.length : 0],
    ]) {
        if (count !== expected)
            throw new Error(`${file} holds ${count} tensors, and the model has ${expected}: use a checkpoint of this model`);
    }
    return { step, elapsed, values: values.map(([name, tensor]) => [name, tensor?.data]) };
}
/** The tensor of this name, which must have this shape. */
function fitting(tensors, name, shape, file) {
    const tensor = tensors.get(name);
    if (tensor === undefined)
        throw new Error(`${file} does not fit the model: ${name} is missing`);
    if (tensor.shape.join() !== shape.join()) {
        throw new Error(`${file} does not fit the model: ${name} is [${tensor.shape}] instead of [${shape}]`);
    }
    return tensor;
}
/** Steps done and seconds of training of a state.json. */
function parseState(file) {
    let state;
    try {
        state = JSON.parse(new TextDecoder().decode(file));
    }
    catch (error) {
        throw new Error(`state.json is truncated or damaged (${error.message}): use another checkpoint`);
    }
    if (state.version !== STATE_VERSION) {
        throw new Error(`state.json has format version ${state.version}, and this runner reads version ${STATE_VERSION}: use the runner of that tinygpt`);
    }
    if (!Number.isSafeInteger(state.step))
        throw new Error(`state.json states ${state.step} steps, and a number of steps was expected`);
    return [state.step, Number(state.elapsed_s) || 0];
}
