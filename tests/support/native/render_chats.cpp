// What llama-server's /apply-template answers to many requests, without a server.
//
// A server takes most of a second to start. Here its own function for the endpoint is called, with what the server
// itself gives it for a model without images and sound; a test holds the two against each other. Each prompt is also
// tokenized as the server does before it evaluates one. Texts under "answers" of a body are read as the server reads
// what a model says to that request.
//
//   stdin   {"model": GGUF FILE, "template": TEXT or null, "bodies": [BODY of a request, ...]}
//   stdout  [{"prompt": TEXT, "tokens": [ID, ...], "messages": [{...} or {"error": MESSAGE}, ...]} or {"error": MESSAGE}, ...]
#include "chat.h"
#include "common.h"
#include "llama-cpp.h"
#include "log.h"
#include "server-common.h"

#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>

static json read_answer(const std::string & answer, const json & settings) {
    common_chat_parser_params params;
    params.format = static_cast<common_chat_format>(settings.at("chat_format").get<int>());
    params.reasoning_format = common_params().reasoning_format;
    params.generation_prompt = settings.at("generation_prompt").get<std::string>();
    params.parse_tool_calls = json_value(settings, "parse_tool_calls", false);
    if (settings.contains("chat_parser")) {
        params.parser.load(settings.at("chat_parser").get<std::string>());
    }
    try {
        return common_chat_parse(answer, false, params).to_json_oaicompat();
    } catch (const std::exception & error) {
        return {{"error", std::string(error.what())}};
    }
}

static json render(json & body, const server_chat_params & chat, const llama_vocab * vocab) {
    try {
        std::vector<raw_buffer> media;
        const std::vector<std::string> answers = json_value(body, "answers", std::vector<std::string>());
        body.erase("answers");
        const json settings = oaicompat_chat_params_parse(body, chat, media);
        const std::string prompt = settings.at("prompt").get<std::string>();
        json messages = json::array();
        for (const auto & answer : answers) {
            messages.push_back(read_answer(answer, settings));
        }
        return {{"prompt", prompt}, {"tokens", tokenize_mixed(vocab, prompt, true, true)}, {"messages", messages}};
    } catch (const std::exception & error) {
        return {{"error", std::string(error.what())}};
    }
}

static json render_all(json & job) {
    llama_model_params settings = llama_model_default_params();
    settings.vocab_only = true;
    const std::string file = job.at("model").get<std::string>();
    const llama_model_ptr model(llama_model_load_from_file(file.c_str(), settings));
    if (!model) {
        throw std::runtime_error(file + ": llama.cpp cannot load it");
    }
    common_params defaults;
    const std::string source = job.at("template").is_null() ? "" : job.at("template").get<std::string>();
    server_chat_params chat = {};
    chat.use_jinja = defaults.use_jinja;
    chat.prefill_assistant = defaults.prefill_assistant;
    chat.reasoning_format = defaults.reasoning_format;
    chat.chat_template_kwargs = {{"preserve_reasoning", "true"}};  // what the parser of options adds
    chat.tmpls = common_chat_templates_init(model.get(), source);
    chat.enable_thinking = common_chat_templates_support_enable_thinking(chat.tmpls.get());

    json answers = json::array();
    for (auto & body : job.at("bodies")) {
        answers.push_back(render(body, chat, llama_model_get_vocab(model.get())));
    }
    return answers;
}

int main() {
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    common_log_set_verbosity_thold(LOG_LEVEL_ERROR);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    try {
        json job = json::parse(input);
        std::cout << render_all(job).dump() << std::endl;
    } catch (const std::exception & error) {
        std::cerr << "error: " << error.what() << std::endl;
        return 1;
    }
    return 0;
}
