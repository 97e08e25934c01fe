// CUDA for a CPU: what CuPy calls of the driver, the runtime, NVRTC, cuBLAS and Thrust. One shared
// library; `__init__.py` builds it and puts it where CuPy looks for NVIDIA's. What is not here is
// an error that names the function.
//
// Work that is put into a stream runs as late as it may: when the host waits for it, or when other
// work does through an event. So a program that reads a result or changes memory without waiting
// fails in every run here, not only in some. With CUDA_ON_CPU_EARLY set, only the default stream is
// late: that shows what other streams overwrite too early.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

using Work = std::function<void()>;
using Guard = std::lock_guard<std::recursive_mutex>;

#define CODES(EACH)                                                                           \
    EACH(OK, 0, Success) EACH(INVALID_VALUE, 1, InvalidValue)                                 \
    EACH(OUT_OF_MEMORY, 2, MemoryAllocation) EACH(NO_DEVICE, 101, InvalidDevice)              \
    EACH(INVALID_IMAGE, 200, InvalidKernelImage) EACH(NOT_FOUND, 500, SymbolNotFound)         \
    EACH(ILLEGAL_STATE, 401, IllegalState) EACH(INVALID_HANDLE, 400, InvalidResourceHandle)   \
    EACH(NOT_READY, 600, NotReady) EACH(NOT_SUPPORTED, 801, NotSupported)                     \
    EACH(CAPTURE_UNSUPPORTED, 900, StreamCaptureUnsupported)                                  \
    EACH(CAPTURE_INVALIDATED, 901, StreamCaptureInvalidated)                                  \
    EACH(CAPTURE_ISOLATION, 905, StreamCaptureIsolation)                                      \
    EACH(CAPTURE_UNMATCHED, 903, StreamCaptureUnmatched)                                      \
    EACH(CAPTURE_IMPLICIT, 906, StreamCaptureImplicit) EACH(CAPTURED_EVENT, 907, CapturedEvent)
#define CODE(name, number, text) name = number,
enum Code { CODES(CODE) };  // of the runtime and of the driver, which agree

static std::recursive_mutex lock;  // one call at a time
static thread_local int last_error = OK;
static thread_local std::string missing_name;

static int failed(int code) { return last_error = code; }

// Called in place of every function of the runtime that is not here.
extern "C" int missing(const char* name) {
    missing_name = name;
    fprintf(stderr, "CUDA on a CPU: %s is not implemented\n", name);
    return failed(NOT_SUPPORTED);
}

// Streams, events and graphs --------------------------------------------------------------------

struct Stream;
struct Graph {
    Stream* origin;  // the stream that the recording began with
    std::vector<Work> work = {};
    int error = OK;
    bool ended = false;
};

struct Stream {
    bool blocking = true;  // before and after the default stream's work
    std::deque<Work> queue;
    size_t put = 0, done = 0;
    std::shared_ptr<Graph> graph;  // which records it
};

struct Event {
    Stream* stream = nullptr;
    size_t place = 0;
    int queries = 0;  // since it was recorded
    std::shared_ptr<Graph> graph;
    std::shared_ptr<double> ms = std::make_shared<double>(0);
};

static Stream default_stream;
static std::set<Stream*> streams;

static Stream& at(void* stream) {  // null, 1 and 2 are names of default streams
    return uintptr_t(stream) > 2 ? *static_cast<Stream*>(stream) : default_stream;
}

static void run(Stream& stream, size_t end) {
    while (stream.done < end) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front(), stream.done++;
        work();
    }
}
static void run(Stream& stream) { run(stream, stream.put); }

static void run_all() {
    run(default_stream);
    for (Stream* stream : streams) run(*stream);
}

static int put(Stream& stream, Work work) {
    Guard guard(lock);
    if (stream.graph) {
        stream.graph->work.push_back(std::move(work));
        return OK;
    }
    if (&stream == &default_stream) {
        for (Stream* other : streams)
            if (other->blocking && other->graph)
                return other->graph->error = failed(CAPTURE_IMPLICIT);
        for (Stream* other : streams)
            if (other->blocking) run(*other);
    } else if (stream.blocking) {
        run(default_stream);
    }
    stream.queue.push_back(std::move(work)), stream.put++;
    static const bool early = getenv("CUDA_ON_CPU_EARLY");
    if (early && &stream != &default_stream) run(stream);
    return OK;
}

// Waits for a stream; while it is recorded, that is an error, which ends the recording.
static int wait(Stream& stream) {
    Guard guard(lock);
    if (stream.graph) return stream.graph->error = failed(CAPTURE_UNSUPPORTED);
    if (&stream == &default_stream)
        for (Stream* other : streams) {
            if (!other->blocking) continue;
            if (other->graph) return other->graph->error = failed(CAPTURE_IMPLICIT);
            run(*other);
        }
    run(stream);
    return OK;
}

static int wait_for_all() {
    Guard guard(lock);
    for (Stream* stream : streams)
        if (stream->graph) return stream->graph->error = failed(CAPTURE_UNSUPPORTED);
    run_all();
    return OK;
}

extern "C" {

int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
    Guard guard(lock);
    auto made = new Stream;
    made->blocking = !(flags & 1);
    streams.insert(made);
    return *stream = made, OK;
}
int cudaStreamCreateWithPriority(void** stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
int cudaStreamDestroy(void* stream) {  // events may still name it: it is not deleted
    Guard guard(lock);
    run(at(stream));
    streams.erase(&at(stream));
    return OK;
}
int cudaStreamSynchronize(void* stream) { return wait(at(stream)); }
int cudaDeviceSynchronize() { return wait_for_all(); }

int cudaEventCreateWithFlags(void** event, unsigned) { return *event = new Event, OK; }
int cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
int cudaEventDestroy(void* event) { return delete static_cast<Event*>(event), OK; }

int cudaEventRecord(void* event, void* stream) {
    Guard guard(lock);
    auto& e = *static_cast<Event*>(event);
    Stream& s = at(stream);
    e.graph = s.graph, e.stream = &s, e.queries = 0;
    e.ms = std::make_shared<double>(0);
    int code = put(s, [ms = e.ms] {
        auto now = std::chrono::steady_clock::now().time_since_epoch();
        *ms = std::chrono::duration<double, std::milli>(now).count();
    });
    return e.place = s.put, code;
}
int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
    Guard guard(lock);
    auto& e = *static_cast<Event*>(event);
    Stream& s = at(stream);
    if (!e.stream) return OK;  // it was never recorded
    if (e.graph) {             // work that follows recorded work is recorded
        if (e.graph->ended) return failed(CAPTURED_EVENT);
        if (&s == &default_stream) return e.graph->error = failed(CAPTURE_IMPLICIT);
        if (s.graph && s.graph != e.graph) return failed(CAPTURE_ISOLATION);
        return s.graph = e.graph, OK;
    }
    if (s.graph) return s.graph->error = failed(CAPTURE_ISOLATION);
    return put(s, [from = e.stream, place = e.place] { run(*from, place); });
}
int cudaEventSynchronize(void* event) {
    Guard guard(lock);
    auto& e = *static_cast<Event*>(event);
    if (e.graph) return e.graph->error = failed(CAPTURE_UNSUPPORTED);
    if (e.stream) run(*e.stream, e.place);
    return OK;
}
int cudaEventQuery(void* event) {  // done late: CuPy asks often, but a loop that asks must end
    Guard guard(lock);
    auto& e = *static_cast<Event*>(event);
    if (e.stream && !e.graph && e.place > e.stream->done && e.queries++ < 1000) return NOT_READY;
    return cudaEventSynchronize(event);
}
int cudaEventElapsedTime(float* ms, void* first, void* second) {
    Guard guard(lock);
    for (auto e : {static_cast<Event*>(first), static_cast<Event*>(second)}) {
        if (!e->stream || e->graph) return failed(INVALID_HANDLE);
        if (e->place > e->stream->done) return NOT_READY;
    }
    *ms = float(*static_cast<Event*>(second)->ms - *static_cast<Event*>(first)->ms);
    return OK;
}

int cudaStreamBeginCapture(void* stream, int) {
    Guard guard(lock);
    Stream& s = at(stream);
    if (&s == &default_stream) return failed(CAPTURE_UNSUPPORTED);
    if (s.graph) return failed(ILLEGAL_STATE);
    return s.graph = std::make_shared<Graph>(Graph{&s}), OK;
}
int cudaStreamIsCapturing(void* stream, int* status) {
    Guard guard(lock);
    auto& graph = at(stream).graph;
    return *status = !graph ? 0 : graph->error ? 2 : 1, OK;
}
int cudaStreamEndCapture(void* stream, void** graph) {
    Guard guard(lock);
    auto ended = at(stream).graph;
    if (!ended) return failed(ILLEGAL_STATE);
    if (ended->origin != &at(stream)) return failed(CAPTURE_UNMATCHED);
    ended->ended = true;
    for (Stream* other : streams)
        if (other->graph == ended) other->graph = nullptr;
    if (ended->error) return *graph = nullptr, failed(CAPTURE_INVALIDATED);
    return *graph = new std::shared_ptr<Graph>(ended), OK;
}
int cudaGraphDestroy(void* graph) { return delete static_cast<std::shared_ptr<Graph>*>(graph), OK; }
int cudaGraphInstantiate(void** made, void* graph, unsigned long long) {
    return *made = new std::shared_ptr<Graph>(*static_cast<std::shared_ptr<Graph>*>(graph)), OK;
}
int cudaGraphExecDestroy(void* graph) { return cudaGraphDestroy(graph); }
int cudaGraphLaunch(void* graph, void* stream) {
    return put(at(stream), [graph = *static_cast<std::shared_ptr<Graph>*>(graph)] {
        for (const Work& work : graph->work) work();
    });
}

// Memory ----------------------------------------------------------------------------------------

}  // extern "C"

static const size_t CAPACITY = size_t(4) << 30, SHARED = 48 << 10;  // bytes; of a block
static std::map<char*, size_t> memory, pinned;  // of the device, and of the host
static size_t used = 0;

static bool inside(const std::map<char*, size_t>& kept, const void* place) {
    auto after = kept.upper_bound((char*)place);
    if (after == kept.begin()) return false;
    --after;
    return place < after->first + after->second;
}

static int copy(void* to, const void* from, size_t bytes, Stream& stream) {
    int code = put(stream, [=] { memmove(to, from, bytes); });
    auto known = [](const void* place) { return inside(memory, place) || inside(pinned, place); };
    // Ordinary memory of the host has been read or written when the call returns.
    if (!code && !stream.graph && !(known(to) && known(from))) run(stream);
    return code;
}

extern "C" {

int cudaMalloc(void** place, size_t bytes) {
    Guard guard(lock);
    if (bytes > CAPACITY - used) return failed(OUT_OF_MEMORY);
    if (posix_memalign(place, 512, std::max<size_t>(bytes, 1))) return failed(OUT_OF_MEMORY);
    memset(*place, 0xff, bytes);  // NaN, or -1, so that nothing can hope for zeros
    memory[(char*)*place] = bytes, used += bytes;
    return OK;
}
int cudaFree(void* place) {
    Guard guard(lock);
    if (!place) return OK;
    auto found = memory.find((char*)place);
    if (found == memory.end()) return failed(INVALID_VALUE);
    run_all();
    used -= found->second;
    memory.erase(found);
    return free(place), OK;
}
int cudaHostAlloc(void** place, size_t bytes, unsigned) {
    Guard guard(lock);
    if (posix_memalign(place, 512, std::max<size_t>(bytes, 1))) return failed(OUT_OF_MEMORY);
    return pinned[(char*)*place] = bytes, OK;
}
int cudaFreeHost(void* place) {
    Guard guard(lock);
    run_all();
    pinned.erase((char*)place);
    return free(place), OK;
}
int cudaMemGetInfo(size_t* free_bytes, size_t* total) {
    Guard guard(lock);
    return *free_bytes = CAPACITY - used, *total = CAPACITY, OK;
}
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, void* stream) {
    Guard guard(lock);
    return copy(to, from, bytes, at(stream));
}
int cudaMemcpy(void* to, const void* from, size_t bytes, int) {
    Guard guard(lock);
    int code = copy(to, from, bytes, default_stream);
    return code ? code : wait(default_stream);
}
int cudaMemsetAsync(void* place, int value, size_t bytes, void* stream) {
    return put(at(stream), [=] { memset(place, value, bytes); });
}
int cudaPointerGetAttributes(void* attributes, const void* place) {
    Guard guard(lock);
    struct Attributes { int type, device; const void *on_device, *on_host; };
    bool here = inside(memory, place), host = inside(pinned, place);
    *(Attributes*)attributes = {here ? 2 : host ? 1 : 0, 0, place, host ? place : nullptr};
    return OK;
}

// The device ------------------------------------------------------------------------------------

int cudaDriverGetVersion(int* version) { return *version = 12090, OK; }
int cudaRuntimeGetVersion(int* version) { return *version = 12090, OK; }
int cudaGetDeviceCount(int* count) { return *count = 1, OK; }
int cudaGetDevice(int* device) { return *device = 0, OK; }
int cudaSetDevice(int device) { return device ? failed(NO_DEVICE) : OK; }
int cudaGetLastError() { return std::exchange(last_error, OK); }

int cudaDeviceGetAttribute(int* value, int attribute, int device) {
    static const std::map<int, int> known = {
        {1, 1024}, {8, SHARED}, {10, 32}, {16, 4}, {39, 1024}, {75, 7}, {76, 5}, {115, 0}};
    auto found = known.find(attribute);
    if (device) return failed(NO_DEVICE);
    if (found == known.end())
        return missing(("cudaDeviceGetAttribute(" + std::to_string(attribute) + ")").c_str());
    return *value = found->second, OK;
}
int cudaGetDeviceProperties_v2(void* properties, int device) {
    struct Properties {  // the beginning of CUDA 12's; the rest is zero
        char name[256], ids[24];
        unsigned mask;
        size_t total, shared;
        int registers, warp;
        size_t pitch;
        int threads, sizes[6], clock;
        size_t constant;
        int major, minor;
        size_t alignments[2];
        int overlap, processors;
    };
    if (device) return failed(NO_DEVICE);
    memset(properties, 0, 1032);
    *(Properties*)properties = {
        "CUDA on a CPU", {}, 0, CAPACITY, SHARED, 65536, 32, 1 << 30, 1024,
        {1024, 1024, 64, INT32_MAX, 65535, 65535}, 1000000, 65536, 7, 5, {512, 32}, 1, 4};
    return OK;
}

const char* cudaGetErrorName(int code) {
#define NAME(name, number, text) if (code == name) return "cudaError" #text;
    CODES(NAME)
    return "unknown";
}
const char* cudaGetErrorString(int code) {
    static thread_local std::string text;
    text = code == NOT_SUPPORTED ? "CUDA on a CPU does not implement " + missing_name
                                 : cudaGetErrorName(code);
    return text.c_str();
}

// The driver ------------------------------------------------------------------------------------

int cuGetErrorName(int code, const char** text) { return *text = cudaGetErrorName(code), OK; }
int cuGetErrorString(int code, const char** text) { return *text = cudaGetErrorString(code), OK; }
int cuCtxGetCurrent(void** context) { return *context = &default_stream, OK; }
int cuCtxSetCurrent(void*) { return OK; }
int cuCtxGetDevice(int* device) { return *device = 0, OK; }

struct Header {
    char magic[8];
    size_t bytes;
};
using Launch = std::function<void(const unsigned*, char*)>;  // as in device.h

int cuModuleLoadData(void** module, const void* image) {
    Guard guard(lock);
    auto header = (const Header*)image;
    if (memcmp(header->magic, "HOSTCODE", 8)) return failed(INVALID_IMAGE);
    char path[] = "/tmp/cuda_on_cpu_XXXXXX";  // a new name: dlopen knows libraries by their names
    int file = mkstemp(path);
    bool written = write(file, header + 1, header->bytes) == ssize_t(header->bytes);
    close(file);
    *module = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!*module) fprintf(stderr, "CUDA on a CPU: %s\n", dlerror());
    unlink(path);
    return *module ? OK : failed(INVALID_IMAGE);
}
int cuModuleUnload(void*) { return OK; }  // functions may be in streams or graphs
int cuModuleGetFunction(void** function, void* module, const char* name) {
    *function = dlsym(module, (std::string("launch_") + name).c_str());
    return *function ? OK : failed(NOT_FOUND);
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** arguments, void** extra) {
    static char* stacks = (char*)mmap(nullptr, size_t(1024) << 16, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool large = bx > 1024 || by > 1024 || bz > 64 || bx * by * bz > 1024 || shared > SHARED;
    large = large || gx > INT32_MAX || gy > 65535 || gz > 65535;
    if (large || !gx || !gy || !gz || !bx || !by || !bz) return failed(INVALID_VALUE);
    if (extra) return missing("cuLaunchKernel with packed arguments");
    std::shared_ptr<Launch> launch(((Launch * (*)(void**)) function)(arguments));
    return put(at(stream), [=] {
        const unsigned sizes[] = {gx, gy, gz, bx, by, bz};
        (*launch)(sizes, stacks);
    });
}

// NVRTC: the host's compiler --------------------------------------------------------------------

struct Program {
    std::string source, log, image;
    std::vector<std::string> expressions, names;
};

}  // extern "C"

static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// The names of the kernels in a source that are not templates.
static std::vector<std::string> kernels_in(const std::string& source) {
    static const std::regex comment("//[^\n]*"), kernel(
        "(template[^;{}]*)?__global__\\s+(__launch_bounds__\\([^)]*\\)\\s+)?void\\s+(\\w+)");
    const std::string text = std::regex_replace(source, comment, "");
    std::vector<std::string> found;
    for (std::sregex_iterator at(text.begin(), text.end(), kernel), end; at != end; ++at)
        if (!(*at)[1].matched) found.push_back((*at)[3]);
    return found;
}

static int compile(Program& program, const std::string& options) {
    char folder[] = "/tmp/cuda_on_cpu_XXXXXX";
    // Shared memory whose size comes with the launch: blocks run one after the other, so there can
    // be one of the largest size.
    static const std::regex sized("extern\\s+__shared__([^;\\[]+)\\[\\s*\\]");
    const std::string largest = "alignas(16) __shared__$1[" + std::to_string(SHARED) + "]";
    std::string at = mkdtemp(folder), text = std::regex_replace(program.source, sized, largest);
    bool barriers = text.find("__sync") != std::string::npos;
    auto add = [&](const std::string& place, const std::string& kernel) {
        text += "\nKERNEL(" + place + ", " + (barriers ? "true" : "false") + ", " + kernel + ")";
    };
    for (const std::string& name : kernels_in(program.source)) add(name, name);
    for (size_t i = 0; i < program.names.size(); i++) add(program.names[i], program.expressions[i]);
    std::ofstream(at + "/kernels.cpp") << text << "\n";
    std::string command = COMPILE " -shared -include '" FOLDER "/kernels.h'" + options + " " + at;
    command += "/kernels.cpp -o " + at + "/kernels.so >" + at + "/log 2>&1";
    bool failed = system(command.c_str());
    std::string code = contents(at + "/kernels.so");
    program.log = contents(at + "/log");
    for (const char* name : {"/kernels.cpp", "/kernels.so", "/log"}) unlink((at + name).c_str());
    rmdir(folder);
    Header header = {{'H', 'O', 'S', 'T', 'C', 'O', 'D', 'E'}, code.size()};
    program.image = std::string((const char*)&header, sizeof header) + code;
    return failed ? 6 : OK;  // NVRTC_ERROR_COMPILATION
}

extern "C" {

int nvrtcVersion(int* major, int* minor) { return *major = 12, *minor = 9, OK; }
const char* nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC error"; }
int nvrtcCreateProgram(void** program, const char* source, const char*, int headers, const char**,
                       const char**) {
    if (headers) return missing("nvrtcCreateProgram with headers"), 3;
    return *program = new Program{source, "", "", {}, {}}, OK;
}
int nvrtcDestroyProgram(void** program) { return delete static_cast<Program*>(*program), OK; }
int nvrtcAddNameExpression(void* program, const char* expression) {
    auto& p = *static_cast<Program*>(program);
    p.names.push_back("expression_" + std::to_string(p.names.size()));
    return p.expressions.push_back(expression), OK;
}
int nvrtcGetLoweredName(void* program, const char* expression, const char** name) {
    auto& p = *static_cast<Program*>(program);
    auto found = std::find(p.expressions.begin(), p.expressions.end(), expression);
    if (found == p.expressions.end()) return 10;  // NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID
    return *name = p.names[found - p.expressions.begin()].c_str(), OK;
}
int nvrtcCompileProgram(void* program, int count, const char** options) {
    auto& p = *static_cast<Program*>(program);
    std::string kept;
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        // Of the folders with headers, CuPy's own: those of a CUDA toolkit are for its compiler.
        bool cupys = option.find("/cupy/") != std::string::npos;
        if (option.substr(0, 2) == "-D" || (option.substr(0, 2) == "-I" && cupys))
            kept += " '" + option + "'";
    }
    if (p.source.empty()) return OK;  // CuPy asks so for the compiler's version: see PTX
    return compile(p, kept);
}
int nvrtcGetPTXSize(void*, size_t* bytes) { return *bytes = sizeof "// " STAMP, OK; }
int nvrtcGetPTX(void*, char* text) { return strcpy(text, "// " STAMP), OK; }
int nvrtcGetCUBINSize(void* p, size_t* bytes) { return *bytes = ((Program*)p)->image.size(), OK; }
int nvrtcGetCUBIN(void* p, char* to) {
    auto& image = ((Program*)p)->image;
    return memcpy(to, image.data(), image.size()), OK;
}
int nvrtcGetProgramLogSize(void* p, size_t* bytes) { return *bytes = ((Program*)p)->log.size() + 1, OK; }
int nvrtcGetProgramLog(void* p, char* to) { return strcpy(to, ((Program*)p)->log.c_str()), OK; }
}

#include "libraries.h"  // cuBLAS and Thrust
